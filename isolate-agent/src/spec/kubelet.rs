//! kubelet's read API: one GET of its pods, bounded in time and size.
//!
//! kubelet is believed only if it proves who it is: a certificate that the node keeps for it, or one of a given CA. A
//! process that listens on its port in its absence must get neither the token nor a say in what is let through.

use std::{
    ffi::{c_char, c_int},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{document, document::Candidate, kubelet_trust::Trust};

/// Time for the whole exchange.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// Largest answer: a node of 1000 pods with large specifications has some 30 MiB.
const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
/// Where kubelet itself keeps the certificate that it serves with.
const OWN_CERTIFICATES: [&str; 3] = [
    "/var/lib/kubelet/pki/kubelet-server-current.pem",
    "/var/lib/kubelet/pki/kubelet.crt",
    "/var/lib/rancher/k3s/agent/serving-kubelet.crt",
];

/// Why kubelet did not tell.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// Not an address.
    #[error(
        "{url} is no address of kubelet's read API; it looks like https://127.0.0.1:10250 or http://127.0.0.1:10255"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// A file with a token, a key or certificates.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without what it has to have.
    #[error("{} has no {what} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it has to have.
        what: &'static str,
    },
    /// Nothing to know kubelet by.
    #[error("no certificate of kubelet's is where it usually is ({}): give its CA with --kubelet-ca", OWN_CERTIFICATES.join(", "))]
    NoTrust,
    /// Certificates or keys that cannot be used.
    #[error("the certificates for kubelet cannot be used")]
    Tls(#[from] rustls::Error),
    /// No connection.
    #[error("cannot connect to kubelet at {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It broke off.
    #[error("the exchange with kubelet broke off")]
    Http(#[from] hyper::Error),
    /// It said no.
    #[error("kubelet answered {status}{}", hint(*status))]
    Status {
        /// The status.
        status: StatusCode,
    },
    /// The body broke off or is too large.
    #[error("the answer of kubelet cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not JSON.
    #[error("the answer of kubelet is no list of pods")]
    Answer(#[from] serde_json::Error),
    /// Too slow.
    #[error("kubelet did not answer within {} ms", DEADLINE.as_millis())]
    Late,
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => ": give it a token with --kubelet-token-file, or --kubelet-client-cert",
        StatusCode::FORBIDDEN => ": the account needs `get` on nodes/pods (before Kubernetes 1.33: on nodes/proxy)",
        _ => "",
    }
}

/// How to reach kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubelet {
    /// Where it listens: `https://…`, or `http://…` for the read-only port.
    pub url: String,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
    /// File with the CA that signed its certificate, or with that certificate itself.
    pub ca: Option<PathBuf>,
    /// File with a client certificate and its key.
    pub client_cert: Option<PathBuf>,
}

impl Kubelet {
    /// The pods of this node.
    pub(super) async fn pods(&self) -> Result<Vec<Candidate>, KubeletError> {
        let body = timeout(DEADLINE, self.fetch()).await.map_err(|_elapsed| KubeletError::Late)??;
        Ok(document::of_list(&serde_json::from_slice(&body)?))
    }

    async fn fetch(&self) -> Result<Bytes, KubeletError> {
        let bad_url = || KubeletError::Url { url: self.url.clone() };
        let uri: Uri = self.url.parse().map_err(|_invalid| bad_url())?;
        let host = uri.host().ok_or_else(bad_url)?.trim_matches(['[', ']']).to_owned();
        let stream = |port| connect(&host, uri.port_u16().unwrap_or(port));
        match uri.scheme_str() {
            Some("https") => {
                let config = Arc::new(self.tls()?);
                let name = ServerName::try_from(host.clone()).map_err(|_invalid| bad_url())?;
                let (stream, address) = stream(10_250).await?;
                let connected = TlsConnector::from(config).connect(name, stream).await;
                let stream = connected.map_err(|source| KubeletError::Connect { address, source })?;
                self.ask(stream, &uri, self.token()?).await
            }
            // In clear, so without the token.
            Some("http") => self.ask(stream(10_255).await?.0, &uri, None).await,
            _ => Err(bad_url()),
        }
    }

    fn token(&self) -> Result<Option<String>, KubeletError> {
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).map_err(|source| KubeletError::Read { path: path.clone(), source })?;
            Ok(text.trim().to_owned())
        };
        self.token_file.as_ref().map(read).transpose()
    }

    fn tls(&self) -> Result<ClientConfig, KubeletError> {
        let trusted = match &self.ca {
            Some(path) => certificates(path)?,
            None => OWN_CERTIFICATES.iter().filter_map(|path| certificates(Path::new(path)).ok()).flatten().collect(),
        };
        if trusted.is_empty() {
            return Err(KubeletError::NoTrust);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let trust = Trust::new(trusted, provider);
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(trust));
        match &self.client_cert {
            None => Ok(builder.with_no_client_auth()),
            Some(path) => {
                let no_key = |_error| KubeletError::Pem { path: path.clone(), what: "private key" };
                let key = PrivateKeyDer::from_pem_file(path).map_err(no_key)?;
                Ok(builder.with_client_auth_cert(certificates(path)?, key)?)
            }
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        uri: &Uri,
        token: Option<String>,
    ) -> Result<Bytes, KubeletError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its errors reach `sender` as well; it ends with it.
        drop(tokio::spawn(connection));
        let mut request = Request::get(format!("{}/pods", uri.path().trim_end_matches('/')))
            .header(HOST, uri.authority().map_or("localhost", hyper::http::uri::Authority::as_str))
            .header(ACCEPT, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bad = |_malformed| KubeletError::Url { url: self.url.clone() };
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).map_err(bad)?).await?;
        if response.status() != StatusCode::OK {
            return Err(KubeletError::Status { status: response.status() });
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(KubeletError::Body)?.to_bytes())
    }
}

async fn connect(host: &str, port: u16) -> Result<(TcpStream, String), KubeletError> {
    let address =
        host.parse().map_or_else(|_name| format!("{host}:{port}"), |ip| SocketAddr::new(ip, port).to_string());
    look_names_up_plainly();
    match TcpStream::connect(&address).await {
        Ok(stream) => Ok((stream, address)),
        Err(source) => Err(KubeletError::Connect { address, source }),
    }
}

/// Has the C library look names up in `/etc/hosts` and by DNS, whatever `/etc/nsswitch.conf` says: this program is linked
/// statically, and modules of the node's own C library must not be loaded into it (`__nss_configure_lookup` in glibc's `nss.h`).
fn look_names_up_plainly() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: both are C strings that live for ever.
        let set = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        if set != 0 {
            tracing::debug!("names are looked up as nsswitch.conf says");
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KubeletError> {
    let bytes = fs::read(path).map_err(|source| KubeletError::Read { path: path.to_owned(), source })?;
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(KubeletError::Pem { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}
