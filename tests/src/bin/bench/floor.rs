//! What nothing on this machine gets below when it cuts a pod off: measured beside the pod's stream, in turns with the cuts.

use std::{
    fs::{self, File},
    hint::black_box,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cpu,
    crowd::CrowdPod,
    cut::ends_well,
    report::Report,
    stats::Series,
    stream::{PERIOD, Sink},
};

/// What the work of [`Floor::work`] takes where nothing disturbs it: about what the agent does for a cut.
pub(crate) const WORK: Duration = Duration::from_micros(250);
/// About as much as a record has.
const RECORD_BYTES: usize = 600;

/// The floors, and what they are measured with.
pub(crate) struct Floor {
    folder: PathBuf,
    /// The turns of a loop that [`WORK`] holds.
    turns: u64,
    process: Series,
    request: Series,
    work: Series,
    record: Series,
}

impl Floor {
    /// With files in `folder`, which goes away by itself.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.to_owned();
        let series = Series::default;
        Self { folder, turns: turns(), process: series(), request: series(), work: series(), record: series() }
    }

    /// Measures each once, beside the stream of `pod`. `nothing` is a command that does nothing.
    pub(crate) fn round(&mut self, sink: &Sink, pod: &CrowdPod, nothing: Command) {
        let micros = |start: Instant, end: Instant| end.duration_since(start).as_secs_f64() * 1e6;
        let process = sink.time_beside(pod, || assert!(ends_well(nothing)));
        self.process.push(process);
        for (turns, series) in [(0, &mut self.request), (self.turns, &mut self.work)] {
            let path = self.folder.join("floor.sock");
            let listener = UnixListener::bind(&path).expect("the path is free");
            let (done, end) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(|| {
                    cpu::go_first();
                    let (mut stream, _) = listener.accept().expect("a connection comes");
                    stream.read_exact(&mut [0; 1]).expect("a byte comes");
                    spend(turns);
                    done.send(Instant::now()).expect("it is waited for");
                });
                // It waits by then.
                thread::sleep(20 * PERIOD);
                let ask = || {
                    let start = Instant::now();
                    let mut stream = UnixStream::connect(&path).expect("it listens");
                    stream.write_all(b"!").expect("it reads");
                    micros(start, end.recv().expect("it ends"))
                };
                series.push(sink.beside(&[pod], PERIOD, ask).result);
            });
            fs::remove_file(&path).expect("it was bound there");
        }
        let record = sink.time_beside(pod, || self.save());
        self.record.push(record);
    }

    /// A record's way to the disk: whole or not at all, also after a crash.
    fn save(&self) {
        let [new, name] = ["floor.new", "floor.record"].map(|name| self.folder.join(name));
        let mut file = File::create(&new).expect("the folder is ours");
        file.write_all(&[b' '; RECORD_BYTES]).and_then(|()| file.sync_all()).expect("the disk has room");
        fs::rename(&new, name).expect("both are ours");
        File::open(&self.folder).and_then(|folder| folder.sync_all()).expect("it is there");
    }

    pub(crate) fn tell(&self, report: &mut Report) {
        for (name, series) in
            [("process", &self.process), ("request", &self.request), ("work", &self.work), ("record", &self.record)]
        {
            report.figure(&format!("cut.floor.{name}"), "µs", series);
        }
    }
}

/// How many turns [`WORK`] holds: of some tries the one that was disturbed least.
fn turns() -> u64 {
    const TURNS: u64 = 100_000;
    let one = |_| {
        let start = Instant::now();
        spend(TURNS);
        start.elapsed()
    };
    let took = (0..50).map(one).min().expect("some tries");
    u64::try_from(u128::from(TURNS) * WORK.as_nanos() / took.as_nanos().max(1)).expect("a small number")
}

fn spend(turns: u64) {
    black_box((0..turns).fold(1_u64, |sum, turn| black_box(sum.wrapping_mul(3) ^ turn)));
}
