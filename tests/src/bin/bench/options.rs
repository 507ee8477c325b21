//! How much is measured. A quick run goes through everything once or twice, and its times mean nothing.

use std::path::PathBuf;

/// Measures isolate-agent beside what people would use instead of it
#[derive(Debug, clap::Parser)]
#[command(name = "bench")]
pub(crate) struct Options {
    /// Go through everything as fast as possible, to see that it works
    #[arg(long)]
    pub(crate) quick: bool,
    /// Folder of performance.md, performance.json and the plots
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Only these parts
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Rounds of the programs alone
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub(crate) micro_rounds: u32,
    /// Rounds of a healthy pod's traffic
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) healthy_rounds: u32,
    /// Rounds of the floods
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) flood_rounds: u32,
    /// Rounds of the cut
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) cut_rounds: u32,
    /// Numbers of pods on the node
    #[arg(long, value_name = "PODS", value_delimiter = ',', default_values_t = [1, 10, 110, 250, 1000])]
    pub(crate) pods: Vec<u32>,
    /// Seconds of a look at the daemon at rest; tens, since it looks at the node every ten
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) rest_secs: u64,
    /// Pods that come and go, twenty a second, on a node of each size
    #[arg(long, value_name = "PODS", default_value_t = 100)]
    pub(crate) churn_pods: u32,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The programs alone
    Micro,
    /// A healthy pod's traffic, armed and not
    Healthy,
    /// Isolated pods under flood
    Flood,
    /// How fast a cut comes
    Cut,
    /// What grows with the number of pods
    Scale,
}

impl Options {
    /// As few rounds as show that it works, for a quick run.
    pub(crate) fn settle(mut self) -> Self {
        if self.quick {
            self.micro_rounds = 2;
            self.healthy_rounds = 2;
            self.flood_rounds = 2;
            self.cut_rounds = 3;
            self.pods = vec![1, 10];
            self.rest_secs = 1;
            self.churn_pods = 10;
        }
        self
    }

    /// Whether this part runs.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
