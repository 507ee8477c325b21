//! kubelet's read API, from the other side: a server that proves who it is, one that does not, and worse.

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{Request, Response, StatusCode, body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use isolate_agent::spec::{Kubelet, NodeFolders, Search, Siblings, Sources};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

const UID: &str = "3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c";
const PODS: &str = r#"{"kind":"PodList","items":[
    {"metadata":{"uid":"3f1c2d64-9b0e-4c57-8a21-5d7e6f0a1b2c","name":"web-1","namespace":"shop",
        "ownerReferences":[{"kind":"ReplicaSet","name":"web","controller":true}]},
     "spec":{"containers":[{"name":"web","livenessProbe":{"tcpSocket":{"port":80}}}]},
     "status":{"conditions":[{"type":"Ready","status":"True"}]}},
    {"metadata":{"uid":"aaaaaaaa-9b0e-4c57-8a21-5d7e6f0a1b2c","name":"web-2","namespace":"shop",
        "ownerReferences":[{"kind":"ReplicaSet","name":"web","controller":true}]},
     "spec":{"containers":[{"name":"web"}]},"status":{"conditions":[{"type":"Ready","status":"False"}]}}]}"#;

/// What the server does with a request that has the right token, or needs none.
#[derive(Clone, Copy)]
enum Answer {
    Pods,
    Text(&'static str),
    Status(StatusCode),
    Nothing,
    Endless,
}

struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    fn own(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn signed(name: &str, ca: &CertifiedIssuer<'_, KeyPair>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        Self { certificate: params.signed_by(&key, ca).expect("signed").pem(), key: key.serialize_pem() }
    }

    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM");
        (vec![certificate], PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM"))
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

/// kubelet, as far as it is asked.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    files: TempDir,
}

impl Server {
    async fn start(identity: Option<&Identity>, clients: Option<&str>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, requests) = (listener.local_addr().expect("bound"), Arc::<AtomicUsize>::default());
        let acceptor = identity.map(|identity| acceptor(identity, clients));
        let counter = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, counter, answer, None).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            serve(stream, counter, answer, Some("Bearer secret")).await;
                        }
                    }
                });
            }
        });
        let files = tempfile::tempdir().expect("a folder");
        fs::write(files.path().join("token"), "secret\n").expect("written");
        Self { address, requests, files }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    fn kubelet(&self, scheme: &str, ca: impl Into<Option<PathBuf>>) -> Kubelet {
        let token_file = Some(self.files.path().join("token"));
        Kubelet { url: format!("{scheme}://{}", self.address), token_file, ca: ca.into(), client_cert: None }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn acceptor(identity: &Identity, clients: Option<&str>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let (chain, key) = identity.der();
    let config = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("an identity")))
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    counter: Arc<AtomicUsize>,
    answer: Answer,
    authorization: Option<&'static str>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        counter.fetch_add(1, Ordering::SeqCst);
        let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let (right, path) = (given == authorization, request.uri().path().to_owned());
        async move {
            Ok::<_, Infallible>(match (right, path.as_str(), answer) {
                (false, _, _) => response(StatusCode::UNAUTHORIZED, ""),
                (true, "/pods", Answer::Pods) => response(StatusCode::OK, PODS),
                (true, "/pods", Answer::Text(text)) => response(StatusCode::OK, text),
                (true, "/pods", Answer::Status(status)) => response(status, ""),
                (true, "/pods", Answer::Nothing) => std::future::pending().await,
                (true, "/pods", Answer::Endless) => {
                    let chunk = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b' '; 1024])));
                    Response::new(BoxBody::new(StreamBody::new(futures_util::stream::repeat_with(chunk))))
                }
                (true, _, _) => response(StatusCode::NOT_FOUND, ""),
            })
        }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn response(status: StatusCode, text: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response
}

async fn search(kubelet: Kubelet) -> Search {
    let folders = NodeFolders { logs: "/nonexistent".into(), manifests: Vec::new() };
    let sources = Sources { manifest: None, kubelet: Some(kubelet), folders };
    sources.find(UID.parse().expect("a UID"), None).await.expect("no manifest was given")
}

fn assert_found(search: &Search) {
    let found = search.found.as_ref().unwrap_or_else(|| unreachable!("not found: {:?}", search.failed));
    assert_eq!(found.spec.probe_ports().into_iter().collect::<Vec<_>>(), [80]);
    assert_eq!(search.name, Some(("shop".to_owned(), "web-1".to_owned())));
    assert_eq!(search.siblings, Some(Siblings { pods: 2, ready: 1 }));
}

fn assert_failed(search: &Search, said: &str) {
    assert_eq!(search.found, None);
    assert!(search.failed.iter().any(|failed| failed.contains(said)), "{said:?} is not in {:?}", search.failed);
}

#[tokio::test]
async fn kubelet_is_known_by_its_own_certificate() {
    let identity = Identity::own("node1");
    let server = Server::start(Some(&identity), None, Answer::Pods).await;
    let ca = server.file("kubelet.crt", &identity.certificate);
    assert_found(&search(server.kubelet("https", ca)).await);
}

#[tokio::test]
async fn kubelet_is_known_by_a_ca_for_its_address_only() {
    let ca = authority();
    for (name, right) in [("127.0.0.1", true), ("node1", false)] {
        let server = Server::start(Some(&Identity::signed(name, &ca)), None, Answer::Pods).await;
        let file = server.file("ca.crt", &ca.pem());
        let search = search(server.kubelet("https", file)).await;
        if right {
            assert_found(&search);
        } else {
            assert_failed(&search, "certificate not valid for name");
            assert_eq!(server.requests(), 0);
        }
    }
}

#[tokio::test]
async fn an_impostor_gets_no_token_and_no_say() {
    let server = Server::start(Some(&Identity::own("node1")), None, Answer::Pods).await;
    let ca = server.file("kubelet.crt", &Identity::own("node1").certificate);
    assert_failed(&search(server.kubelet("https", ca)).await, "invalid peer certificate");
    assert_eq!(server.requests(), 0, "it was sent a request, token and all");
}

#[tokio::test]
async fn a_client_certificate_does_as_well() {
    let (ca, identity) = (authority(), Identity::own("node1"));
    let server = Server::start(Some(&identity), Some(&ca.pem()), Answer::Pods).await;
    let trusted = server.file("kubelet.crt", &identity.certificate);
    let client = Identity::signed("responder", &ca);
    let client_cert = Some(server.file("client.pem", &(client.certificate + &client.key)));
    assert_found(&search(Kubelet { client_cert, ..server.kubelet("https", trusted.clone()) }).await);
    assert_eq!(search(server.kubelet("https", trusted)).await.found, None, "without the certificate");
}

#[tokio::test]
async fn the_read_only_port_is_sent_no_token() {
    let server = Server::start(None, None, Answer::Pods).await;
    assert_found(&search(server.kubelet("http", None)).await);
}

#[tokio::test]
async fn what_fails_says_why() {
    let identity = Identity::own("node1");
    for (answer, said) in [
        (Answer::Status(StatusCode::FORBIDDEN), "nodes/proxy"),
        (Answer::Status(StatusCode::UNAUTHORIZED), "--kubelet-token-file"),
        (Answer::Text("<html>"), "no list of pods"),
        (Answer::Text(r#"{"kind":"PodList","items":[]}"#), "does not know the pod"),
        (Answer::Nothing, "did not answer within 1000 ms"),
        (Answer::Endless, "kubelet"),
    ] {
        let server = Server::start(Some(&identity), None, answer).await;
        let ca = server.file("kubelet.crt", &identity.certificate);
        assert_failed(&search(server.kubelet("https", ca)).await, said);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port");
    let kubelet = |url: String| Kubelet { url, ..Kubelet::default() };
    assert_failed(&search(kubelet(format!("http://{closed}"))).await, "cannot connect to kubelet at 127.0.0.1:");
    for url in ["", "10250", "ftp://127.0.0.1", "/run/kubelet.sock"] {
        assert_failed(&search(kubelet(url.to_owned())).await, "no address of kubelet's read API");
    }
    let ca = Some("/nonexistent/ca.crt".into());
    let search = search(Kubelet { ca, ..kubelet(format!("https://{closed}")) }).await;
    assert_failed(&search, "cannot read /nonexistent/ca.crt");
}
