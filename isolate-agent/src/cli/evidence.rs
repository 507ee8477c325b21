//! `evidence`: what a pod is at this moment, into one archive. Takes neither a daemon nor the lock.
//!
//! A process of its own collects ([`collect`]): a thread that waits for a file system which does not answer keeps its
//! process from ending, even when that is killed, and with it whoever waits for the command.

mod collect;

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use isolate_agent::{control::protocol::Code, evidence::Summary, settings::Settings};
use thiserror::Error;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::{Instant, sleep, timeout, timeout_at},
};

use self::collect::Message;
use super::{CliError, output};
use crate::args::{Evidence, Form};

/// What reading may take by itself what changes from moment to moment.
const BY_ITSELF: Duration = Duration::from_mins(1);
/// What it may take before a cut…
const BEFORE_THE_CUT: Duration = Duration::from_millis(1500);
/// …and what the cut waits for it, whatever it is held up by.
const LONGEST: Duration = Duration::from_secs(2);
/// How long nothing is heard of it before nobody waits any more.
const SILENCE: Duration = Duration::from_mins(1);
/// What a process that is done takes to end.
const ENDING: Duration = Duration::from_millis(500);

/// Why there is no evidence.
#[derive(Debug, Error)]
pub(crate) enum CollectError {
    #[error("{message}")]
    Told { code: Code, message: String },
    #[error("cannot start the process that collects it")]
    Start(#[source] io::Error),
    #[error("the process that collected it has ended before it was done")]
    Ended,
    #[error(
        "collecting it is held up, perhaps by the file system that it is written to; the process that does it, {pid}, is left \
         to end by itself"
    )]
    Stuck { pid: u32 },
}

impl CollectError {
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Told { code, .. } => *code,
            Self::Start(_) | Self::Ended | Self::Stuck { .. } => Code::Failed,
        }
    }
}

pub(crate) async fn run(args: &Evidence, settings: &Settings) -> Result<Code, CliError> {
    if let Some(first) = args.in_turns {
        return collect::run(args, Duration::from_millis(first), settings).await;
    }
    let running = Running::start(&args.uid, &args.write, args.with_env, BY_ITSELF, settings);
    let summary = running.map_err(CollectError::Start)?.finish().await?;
    output::print(&match args.output {
        Form::Text => describe(&summary),
        form => output::document(&summary, form)?,
    })?;
    Ok(Code::Done)
}

/// A bundle that is begun before a cut and finished after it.
pub(super) struct Collecting(Result<Running, CollectError>);

impl Collecting {
    /// Returns when what changes from moment to moment was read, after two seconds at the latest.
    pub(super) async fn before_the_cut(text: &str, path: &Path, with_env: bool, settings: &Settings) -> Self {
        let until = Instant::now() + LONGEST;
        match Running::start(text, path, with_env, BEFORE_THE_CUT, settings) {
            Err(error) => Self(Err(CollectError::Start(error))),
            Ok(mut running) => {
                // Whether it was read in time is told later.
                drop(timeout_at(until, running.read()).await);
                Self(Ok(running))
            }
        }
    }

    /// The rest of it, after the cut.
    pub(super) async fn finish(self) -> Result<Summary, CollectError> {
        self.0?.finish().await
    }
}

/// A process that collects.
struct Running {
    path: PathBuf,
    child: Child,
    stdin: ChildStdin,
    said: UnboundedReceiver<Message>,
    /// What it said in the end.
    last: Option<Message>,
}

impl Running {
    fn start(text: &str, path: &Path, with_env: bool, first: Duration, settings: &Settings) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("evidence").arg(text).arg("--write").arg(path).args(with_env.then_some("--with-env"));
        command.args(["--in-turns", &first.as_millis().to_string()]);
        command.arg("--state-dir").arg(&settings.state_dir);
        for (flag, place) in [("--cgroup-root", &settings.cgroup_root), ("--cri-endpoint", &settings.cri_endpoint)] {
            command.args(place.iter().flat_map(|place| [flag.as_ref(), place.as_os_str()]));
        }
        // None of the command's own streams: whoever reads these to their end would wait for it as well.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (say, said) = mpsc::unbounded_channel();
        thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let mut messages = lines.map_while(|line| serde_json::from_str::<Message>(&line).ok());
            // Until it has ended, or nobody listens any more.
            messages.all(|message| say.send(message).is_ok());
        })?;
        Ok(Self { path: path.to_owned(), child, stdin, said, last: None })
    }

    /// Waits until the first turn is over.
    async fn read(&mut self) {
        loop {
            match self.said.recv().await {
                Some(Message::Progress(what)) => progress(&what),
                Some(Message::Read) | None => return,
                last => {
                    self.last = last;
                    return;
                }
            }
        }
    }

    /// Lets it have the second turn, and waits for its end as long as it is heard of.
    async fn finish(mut self) -> Result<Summary, CollectError> {
        // It may have ended already.
        drop(self.stdin.write_all(b"\n"));
        let last = loop {
            if let Some(last) = self.last.take() {
                break last;
            }
            match timeout(SILENCE, self.said.recv()).await {
                Ok(Some(Message::Progress(what))) => progress(&what),
                Ok(Some(Message::Read)) => {}
                Ok(Some(last)) => break last,
                Ok(None) => return Err(CollectError::Ended),
                Err(_) => {
                    // So that it does not go on when it is no longer held up.
                    drop(self.child.kill());
                    return Err(CollectError::Stuck { pid: self.child.id() });
                }
            }
        };
        let until = Instant::now() + ENDING;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            sleep(Duration::from_millis(5)).await;
        }
        match last {
            Message::Done { sha256, files, problems, complete } => {
                Ok(Summary { path: self.path, sha256, files, problems, complete })
            }
            Message::Failed { code, message } => Err(CollectError::Told { code, message }),
            Message::Progress(_) | Message::Read => Err(CollectError::Ended),
        }
    }
}

/// What a person is told of a bundle.
pub(super) fn describe(summary: &Summary) -> String {
    let Summary { path, sha256, files, problems, complete } = summary;
    let whole = format!("{}: {files} files, SHA-256 {sha256}\n", output::printable(&path.display().to_string()));
    if *problems == 0 && *complete {
        return whole;
    }
    let time = if *complete { "" } else { ", some for want of time" };
    format!("{whole}{problems} things could not be had{time}; manifest.json in it lists them\n")
}

fn progress(what: &str) {
    output::note(&format!("evidence: {what}"));
}
