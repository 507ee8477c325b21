//! From flags and environment to settings.

use isolate_agent::settings::Layer;

use super::{Add, Cli, Daemon, Places, Preview, Specification, Verb};

impl Cli {
    /// What flags and environment set.
    pub(crate) fn layer(&self) -> Layer {
        let Places { config: _, run_dir, state_dir, bpffs, cgroup_root, cri_endpoint, veth_hook } = &self.places;
        let places = Layer {
            run_dir: run_dir.clone(),
            state_dir: state_dir.clone(),
            bpffs: bpffs.clone(),
            cgroup_root: cgroup_root.clone(),
            cri_endpoint: cri_endpoint.clone(),
            veth_hook: *veth_hook,
            ..Layer::default()
        };
        match &self.verb {
            Verb::Daemon(Daemon { metrics_addr, nri, nri_socket, arm, log_format, retention, limit }) => Layer {
                metrics_addr: *metrics_addr,
                nri: nri.then_some(true),
                nri_socket: nri_socket.clone(),
                arm: *arm,
                log_format: *log_format,
                retention: *retention,
                kubelet_cgroup: limit.kubelet_cgroup.clone(),
                max_isolated: limit.max_isolated,
                ..places
            },
            Verb::Add(Add { limit, specification, .. }) => specification.layer(Layer {
                kubelet_cgroup: limit.kubelet_cgroup.clone(),
                max_isolated: limit.max_isolated,
                ..places
            }),
            Verb::Preview(Preview { specification, .. }) => specification.layer(places),
            Verb::Remove(_)
            | Verb::Verify(_)
            | Verb::List(_)
            | Verb::Status(_)
            | Verb::Evidence(_)
            | Verb::Events(_)
            | Verb::Uninstall(_)
            | Verb::Doctor(_)
            | Verb::Completions(_) => places,
        }
    }
}

impl Specification {
    fn layer(&self, layer: Layer) -> Layer {
        Layer {
            kubelet_url: self.kubelet_url.clone(),
            kubelet_token_file: self.kubelet_token_file.clone(),
            kubelet_ca: self.kubelet_ca.clone(),
            kubelet_client_cert: self.kubelet_client_cert.clone(),
            ..layer
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use isolate_agent::settings::{Arm, LogFormat, VethHook};

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let line = "isolate-agent daemon --run-dir /r --state-dir /s --bpffs /b --cgroup-root /c --kubelet-cgroup /k --max-isolated 7 \
                    --cri-endpoint /c/cri.sock --nri --nri-socket /n --metrics-addr [::1]:80 --arm on-demand --veth-hook clsact --log-format json --retention 2days";
        let expected = Layer {
            run_dir: Some("/r".into()),
            state_dir: Some("/s".into()),
            bpffs: Some("/b".into()),
            cgroup_root: Some("/c".into()),
            cri_endpoint: Some("/c/cri.sock".into()),
            kubelet_cgroup: Some("/k".into()),
            nri: Some(true),
            nri_socket: Some("/n".into()),
            max_isolated: Some(7),
            metrics_addr: Some("[::1]:80".parse().expect("an address")),
            arm: Some(Arm::OnDemand),
            veth_hook: Some(VethHook::Clsact),
            log_format: Some(LogFormat::Json),
            retention: Some(Duration::from_hours(48)),
            ..Layer::default()
        };
        assert_eq!(parse(line).expect("valid").layer(), expected);
        let add = parse("isolate-agent --run-dir /r add 0f0e0d0c --max-isolated 9").expect("valid").layer();
        assert_eq!((add.run_dir, add.max_isolated), (Some("/r".into()), Some(9)), "places stand before the verb too");
        let line = "isolate-agent preview 0f0e0d0c --kubelet-url https://n:1 --kubelet-token-file /t --kubelet-ca /k \
                    --kubelet-client-cert /p";
        let expected = Layer {
            kubelet_url: Some("https://n:1".into()),
            kubelet_token_file: Some("/t".into()),
            kubelet_ca: Some("/k".into()),
            kubelet_client_cert: Some("/p".into()),
            ..Layer::default()
        };
        assert_eq!(parse(line).expect("valid").layer(), expected);
        assert_eq!(parse(&line.replace("preview", "add")).expect("valid").layer(), expected);
    }
}
