//! The description of the control socket, generated from the routes and the protocol's types.
//!
//! Committed as `docs/openapi.json`; `ISOLATE_BLESS=1 cargo test -p isolate-agent openapi` writes it anew.

use std::sync::LazyLock;

use utoipa::OpenApi;

use super::{protocol, routes};

#[derive(OpenApi)]
#[openapi(
    info(title = "isolate-agent", description = "The control socket of isolate-agent: HTTP/JSON for root on the node."),
    servers((url = "http://localhost", description = "curl --unix-socket /run/isolate-agent/agent.sock")),
    paths(
        routes::add,
        routes::remove,
        routes::remove_one,
        routes::verify,
        routes::isolations,
        routes::status,
        routes::status_of,
        routes::description,
    ),
    components(schemas(protocol::ErrorBody))
)]
struct Description;

/// The description as JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut text = Description::openapi().to_pretty_json().expect("a description made of literals is valid JSON");
        text.push('\n');
        text
    });
    &DOCUMENT
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_committed_file_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        if std::env::var_os("ISOLATE_BLESS").is_some() {
            fs::write(&path, document()).expect("docs/openapi.json can be written");
        }
        let committed = fs::read_to_string(&path).expect("docs/openapi.json can be read");
        assert!(
            committed == document(),
            "docs/openapi.json is not current: run `ISOLATE_BLESS=1 cargo test -p isolate-agent openapi`"
        );
    }

    #[test]
    fn every_answer_has_its_type() {
        for name in ["AddRequest", "RemoveRequest", "Outcomes", "Status", "Isolation", "HookStatus", "ErrorBody"] {
            assert!(document().contains(&format!("\"{name}\": {{")), "{name} is not described");
        }
    }
}
