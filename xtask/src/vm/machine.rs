//! One run of a guest: its initramfs, the share of the host's files, qemu, and what it gave.
//!
//! Three serial ports carry what a guest says: the kernel's messages (kept in a file), the job's output (to stdout), and one
//! number, how the job ended. A guest that ends without the number has crashed.

use std::{
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::{Image, Kernel};
use crate::{step, workspace::Workspace};

/// A guest that says nothing for so long is stuck: far beyond what one test takes. All of them take hours.
const SILENCE: Duration = Duration::from_mins(30);
const PAUSE: Duration = Duration::from_millis(100);
/// How much of the kernel's messages is shown when a guest crashed.
const LINES: usize = 40;
/// Megabytes.
const MEMORY: &str = "3072";
/// Debian's qemu-system-common has it there.
const SHARE_SERVER: &str = "/usr/lib/qemu/virtiofsd";
/// What a guest needs before it sees the host's files.
const EARLY_MODULES: [&str; 4] = ["virtio_pci", "virtiofs", "overlay", "virtio_rng"];

/// Boots a kernel, runs the job in it, and fails if the job does.
/// What the job says is printed line by line, each after `prefix`.
pub(super) fn run(workspace: &Workspace, kernel: &Kernel, image: &Image, job: &str, prefix: &str) -> Result<()> {
    let folder = workspace.target.join("vm").join(kernel.name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let initramfs = initramfs(workspace, image, job, &folder)?;
    let console = folder.join("console.log");
    let status = folder.join("status");
    let socket = folder.join("share.sock");
    let mut share = share(workspace, &folder, &socket)?;
    step::say(&format!("boot Linux {} (kernel messages: {})", image.release, console.display()));
    let start = Instant::now();
    let mut qemu = workspace.command("setpriv");
    // A guest must not outlive this program, however that ends.
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"]);
    // One processor: with two, now and then one runs code that the other is patching (static keys), and the guest dies of it.
    qemu.args(["-accel", "tcg,tb-size=512", "-cpu", "max", "-smp", "1", "-m", MEMORY]);
    qemu.args(["-machine", "q35,memory-backend=memory"]);
    qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on")]);
    qemu.args(["-chardev", &format!("socket,id=share,path={}", socket.display())]);
    qemu.args(["-device", "vhost-user-fs-pci,chardev=share,tag=host", "-device", "virtio-rng-pci"]);
    qemu.arg("-serial").arg(format!("file:{}", console.display()));
    qemu.args(["-chardev", "stdio,id=job,signal=on", "-serial", "chardev:job"]);
    qemu.arg("-serial").arg(format!("file:{}", status.display()));
    qemu.arg("-kernel").arg(image.boots()).arg("-initrd").arg(&initramfs);
    qemu.args(["-append", "console=ttyS0 loglevel=6 panic=-1 oops=panic mitigations=off net.ifnames=0"]);
    let qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut qemu = Running(qemu.context("start qemu-system-x86_64")?);
    let said = qemu.0.stdout.take().context("qemu's output is piped")?;
    let (says, heard) = mpsc::channel();
    // It ends with the guest.
    thread::spawn(move || {
        let mut lines = BufReader::new(said).split(b'\n').map_while(Result::ok);
        lines.try_for_each(|line| says.send(line))
    });
    listen(&heard, SILENCE, |line| println!("{prefix}{}", String::from_utf8_lossy(line)))?;
    let ended = qemu.0.wait().context("wait for qemu")?;
    // The server ends with its only client.
    share.0.wait().context("wait for virtiofsd")?;
    step::say(&format!("Linux {}: done in {}", image.release, step::seconds(start.elapsed())));
    let status = fs::read_to_string(&status).unwrap_or_default();
    match status.trim() {
        "0" => Ok(()),
        "" => bail!("the guest crashed ({ended}); its kernel's last messages:\n{}", last_lines(&console)),
        code => bail!("the tests ended with exit code {code}"),
    }
}

/// Tells each line until the other side has no more to say; fails when it is silent for too long.
fn listen(heard: &Receiver<Vec<u8>>, silence: Duration, tell: impl Fn(&[u8])) -> Result<()> {
    loop {
        match heard.recv_timeout(silence) {
            Ok(line) => tell(&line),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("the guest has said nothing for {}", step::seconds(silence)),
        }
    }
}

/// A child that does not outlive a failure.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            // It may end in this moment.
            self.0.kill().and_then(|()| self.0.wait().map(drop)).unwrap_or_else(|error| step::say(&format!("{error}")));
        }
    }
}

/// Serves the host's files, read-only: the root's file system, and those of the checkout and its target folder.
fn share(workspace: &Workspace, folder: &Path, socket: &Path) -> Result<Running> {
    const SCRIPT: &str = r#"
set -eu
server=$1 socket=$2 root=$3; shift 3
for folder in / "$@"; do
    mount --bind "$folder" "$root/$folder"
    mount -o remount,bind,ro "$root/$folder"
done
exec "$server" --socket-path="$socket" -o source="$root" -o cache=always -o log_level=err --rlimit-nofile=0
"#;
    let root = folder.join("root");
    fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
    let mut server = workspace.command("unshare");
    // The mounts are this process's own and go with it.
    server.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", SHARE_SERVER]);
    server.args([socket, &root, &workspace.root, &workspace.target]);
    // It complains about the end of every guest.
    let log = folder.join("share.log");
    let log = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut server = Running(server.stdin(Stdio::null()).stderr(log).spawn().context("start virtiofsd")?);
    while !socket.exists() {
        let ended = server.0.try_wait().context("wait for virtiofsd")?;
        ensure!(
            ended.is_none(),
            "virtiofsd ended before it served anything: {}",
            last_lines(&folder.join("share.log"))
        );
        thread::sleep(PAUSE);
    }
    Ok(server)
}

/// Packs the guest's first programs.
fn initramfs(workspace: &Workspace, image: &Image, job: &str, folder: &Path) -> Result<PathBuf> {
    const PACK: &str = "cd \"$1\" && find . | cpio --create --format newc --quiet > \"$2\"";
    let content = folder.join("initramfs");
    for made in ["bin", "proc", "dev", "layer", "root", "modules"] {
        let made = content.join(made);
        fs::create_dir_all(&made).with_context(|| format!("make {}", made.display()))?;
    }
    let put = |name: &str, text: &str| {
        fs::write(content.join(name), text).with_context(|| format!("write {name} of the initramfs"))
    };
    put("guest.sh", include_str!("guest.sh"))?;
    put("job.sh", job)?;
    put("kernel", &image.folder.to_string_lossy())?;
    put("init", include_str!("init.sh"))?;
    fs::set_permissions(content.join("init"), Permissions::from_mode(0o755)).context("make init executable")?;
    copy(&workspace.tools().join("busybox-static/bin/busybox"), &content.join("bin/busybox"))?;
    let mut show = workspace.command("modprobe");
    show.args(["--show-depends", "--all", "--set-version", &image.release, "--dirname"]);
    let needed = step::output(show.arg(&image.folder).args(EARLY_MODULES))?;
    let files = needed.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| Path::new(file.trim()));
    for (file, number) in unique(files).into_iter().zip(10..) {
        copy(file, &content.join(format!("modules/{number}-{}", file.file_name().unwrap_or_default().display())))?;
    }
    let packed = folder.join("initramfs.cpio");
    step::output(workspace.command("sh").args(["-c", PACK, "sh"]).arg(&content).arg(&packed))?;
    Ok(packed)
}

/// The first of each, in their order.
fn unique<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<&'a Path> {
    files.fold(Vec::new(), |mut seen, file| {
        if !seen.contains(&file) {
            seen.push(file);
        }
        seen
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display())).map(drop)
}

fn last_lines(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_silent_guest_is_given_up_and_one_that_ends_is_heard_out() {
        const BRIEF: Duration = Duration::from_millis(50);
        let told = RefCell::new(Vec::new());
        let tell = |line: &[u8]| told.borrow_mut().push(line.to_vec());
        let (says, heard) = mpsc::channel();
        says.send(b"booted".to_vec()).expect("somebody listens");
        let given_up = listen(&heard, BRIEF, tell).expect_err("it has not ended");
        assert!(given_up.to_string().contains("said nothing"), "{given_up}");
        says.send(b"done".to_vec()).expect("somebody listens");
        drop(says);
        listen(&heard, BRIEF, tell).expect("it has ended");
        assert_eq!(*told.borrow(), [b"booted".to_vec(), b"done".to_vec()]);
    }
}
