//! The files that containerd and its CNI plugins are configured with.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::process;

/// The subnet of a node's pods.
const NETWORK: &str = r#"{ "cniVersion": "0.4.0", "name": "podnet", "plugins": [
  { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "/var/lib/cni/networks",
              "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] } } ] }
"#;

/// Writes them into the node's folder; the pods' sandboxes are kept by this image.
pub(super) fn write(folder: &Path, sandbox_image: &str) {
    let here = folder.display();
    fs::create_dir(folder.join("net.d")).expect("the node's folder is new");
    fs::write(folder.join("net.d/10-bridge.conflist"), NETWORK).expect("the node's folder is writable");
    let runtime = folder.join("oci-runtime");
    let script = format!(
        "#!/bin/sh\nexec {} oci {} \"$@\"\n",
        process::program_of("cri-node", "ISOLATE_CRI_NODE").display(),
        super::image::found("runc").display()
    );
    fs::write(&runtime, script).expect("the node's folder is writable");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // `restrict_oom_score_adj`: root may lack CAP_SYS_RESOURCE. The others are not there everywhere, and not needed.
    let config = format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{here}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{}"
"#,
        runtime.display()
    );
    fs::write(folder.join("containerd.toml"), config).expect("the node's folder is writable");
}
