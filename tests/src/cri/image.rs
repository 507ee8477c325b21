//! Container images without a registry: a docker-archive with one layer of busybox, `pod-proc` and the libraries of that.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{launch, process};

/// What the containers of tests run.
pub(super) const APP: &str = "localhost/isolate-test:1";
/// What keeps a sandbox.
pub(super) const PAUSE: &str = "localhost/isolate-pause:1";
/// What keeps a sandbox and sends frames from its first moment on.
pub(super) const FLOOD: &str = "localhost/isolate-flood:1";

/// The images, in one archive each. Made once in a run, for all nodes.
pub(super) fn archives() -> &'static [PathBuf] {
    static ARCHIVES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    ARCHIVES.get_or_init(|| write(&folder()))
}

/// Beside the program that they are made from; the next run writes them anew.
fn folder() -> PathBuf {
    let folder = process::program().with_file_name("isolate-test-images");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

fn write(folder: &Path) -> Vec<PathBuf> {
    let layer = layer();
    let flood = ["/bin/pod-proc", "flood", "eth0"];
    let images = [(APP, &["/bin/sh"][..]), (PAUSE, &["/bin/busybox", "sleep", "infinity"]), (FLOOD, &flood)];
    let mut files = Vec::new();
    for (number, (name, entrypoint)) in images.into_iter().enumerate() {
        let file = folder.join(format!("image-{number}.tar"));
        archive(&file, name, entrypoint, &layer);
        files.push(file);
    }
    files
}

fn archive(file: &Path, name: &str, entrypoint: &[&str], layer: &[u8]) {
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Entrypoint": entrypoint, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))] },
    });
    let config = config.to_string().into_bytes();
    let (config_name, layer_name) = (format!("{}.json", digest(&config)), format!("{}/layer.tar", digest(layer)));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]).to_string();
    let mut tar = Builder::new(File::create(file).expect("the node's folder is writable"));
    for (name, content) in
        [(&config_name, &config[..]), (&layer_name, layer), (&"manifest.json".to_owned(), manifest.as_bytes())]
    {
        put(&mut tar, name, content, 0o644);
    }
    tar.finish().expect("the node's folder is writable");
}

fn layer() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for folder in ["bin", "dev", "etc", "lib", "lib64", "proc", "sys", "tmp", "www"] {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, folder, std::io::empty()).expect("memory takes everything");
    }
    put(&mut tar, "bin/busybox", &read(&found("busybox")), 0o755);
    for applet in ["sh", "sleep", "httpd", "nc", "kill", "ip", "true"] {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory takes everything");
    }
    put(&mut tar, "www/index.html", b"ok\n", 0o644);
    put(&mut tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644);
    let program = process::program();
    put(&mut tar, "bin/pod-proc", &read(&program), 0o755);
    for library in libraries(&program) {
        let inside = library.strip_prefix("/").expect("ldd gives absolute paths");
        put(&mut tar, &inside.display().to_string(), &read(&library), 0o755);
    }
    tar.into_inner().expect("memory takes everything")
}

/// The files that the dynamic linker would load, and itself.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = launch::succeed(Command::new("ldd").arg(program)).stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn put(tar: &mut Builder<impl std::io::Write>, name: &str, content: &[u8], mode: u32) {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len().try_into().expect("a file has fewer bytes than that"));
    tar.append_data(&mut header, name, content).expect("the archive can be written");
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A command on the search path.
pub(super) fn found(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.find(|file| file.is_file()).unwrap_or_else(|| panic!("{name} is not on the search path"))
}
