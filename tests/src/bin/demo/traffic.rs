//! What flows between the pods, and looks at it: who hears whom now, and whether that is right.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use isolate_tests::{
    channel::{Channel, Path},
    flood::Flood,
};

use crate::{
    screen::Screen,
    town::{Role, Town, everywhere, page, page_on_loopback},
    web::{Server, Tally, Visits},
};

/// How long a look takes at least.
const LOOK: Duration = Duration::from_secs(3);
/// What was sent before a cut has arrived after this time.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// Something that flows.
struct Flow<T> {
    name: &'static str,
    /// Whether it ends when `web` is cut off.
    of_web: bool,
    traffic: T,
}

/// Everything that flows.
pub(crate) struct Traffic<'a> {
    screen: &'a Screen,
    visits: &'a [Flow<Visits<'a>>],
    floods: Vec<Flow<Flood<'a>>>,
    ways: Path<'a>,
    count: i64,
    right: bool,
}

impl<'a> Traffic<'a> {
    /// Lets it flow while `story` is told; returns whether every look was right.
    pub(crate) fn during(screen: &Screen, town: &Town, story: impl FnOnce(&mut Traffic<'_>)) -> bool {
        let servers = town
            .pods()
            .map(|(name, pod)| Server::new(Role::Server.of(pod), everywhere(), &format!("hello from {name}")));
        let Town { web, client, neighbour, .. } = town;
        let visits = [
            ("HTTP client -> web", true, Visits::new(Role::Visitor.of(client), page(web))),
            ("HTTP web -> client", true, Visits::new(Role::Visitor.of(web), page(client))),
            ("HTTP web -> web on loopback", true, Visits::new(Role::SecondVisitor.of(web), page_on_loopback())),
            ("HTTP client -> neighbour", false, Visits::new(Role::SecondVisitor.of(client), page(neighbour))),
        ]
        .map(|(name, of_web, traffic)| Flow { name, of_web, traffic });
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for server in &servers {
                scope.spawn(|| server.run(&stop));
            }
            for visit in &visits {
                scope.spawn(|| visit.traffic.run(&stop));
            }
            let mut traffic = Traffic::start(screen, town, &visits);
            story(&mut traffic);
            let right = traffic.end();
            stop.store(true, Ordering::Relaxed);
            right
        })
    }

    fn start(screen: &'a Screen, town: &'a Town, visits: &'a [Flow<Visits<'a>>]) -> Self {
        let Town { web, client, neighbour, .. } = town;
        let flood = |name, of_web, from, to| {
            let (sender, receiver) = (Role::Datagrams.of(from), Role::Datagrams.of(to));
            Flow { name, of_web, traffic: Flood::start(sender, receiver, (to.end().v4, 0).into()) }
        };
        let floods = vec![
            flood("UDP  client -> web", true, client, web),
            flood("UDP  web -> client", true, web, client),
            flood("UDP  client -> neighbour", false, client, neighbour),
        ];
        let channels: Vec<Channel> = Channel::ROUTED.into_iter().chain(Channel::LINK).collect();
        let count = i64::try_from(channels.len() * 2).unwrap_or(i64::MAX);
        let end = |pod| Role::EveryWay.of(pod);
        let ways = Path::shown(channels, web.end_of(end(web)), client.end_of(end(client)));
        Self { screen, visits, floods, ways, count, right: true }
    }

    /// Looks for some seconds, with `web` cut off or not.
    pub(crate) fn look(&mut self, cut: bool) {
        thread::sleep(IN_FLIGHT);
        let start = Instant::now();
        let before: Vec<i64> = self.floods.iter().map(|flow| flow.traffic.received()).collect();
        for flow in self.visits {
            flow.traffic.begin();
        }
        let carrying = self.carrying(cut);
        thread::sleep(LOOK.saturating_sub(start.elapsed()));
        for flow in self.visits {
            let Tally { made, answered } = flow.traffic.begin();
            let result = format!("{answered} of {made} requests answered");
            self.row(flow.name, &result, answered.into(), made.into(), cut && flow.of_web);
        }
        let arrived: Vec<i64> = self
            .floods
            .iter()
            .map(|flow| flow.traffic.received())
            .zip(before)
            .map(|(now, before)| now - before)
            .collect();
        for (index, arrived) in arrived.into_iter().enumerate() {
            let Flow { name, of_web, .. } = self.floods[index];
            // Whether all arrive is counted for the whole of the demo.
            self.row(name, &format!("{arrived} datagrams arrived"), arrived, arrived.max(1), cut && of_web);
        }
        let result = format!("{carrying} of {} ways open", self.count);
        self.row("TCP, UDP, ICMP, raw, ARP, frames", &result, carrying, self.count, cut);
    }

    /// How many ways carry a packet: each is tried with a marked one, and one that should carry is tried for a while.
    fn carrying(&self, cut: bool) -> i64 {
        if !cut {
            self.ways.assert_flows();
            return self.count;
        }
        i64::try_from(self.ways.open().len()).unwrap_or(i64::MAX)
    }

    fn row(&mut self, name: &str, result: &str, arrived: i64, sent: i64, cut: bool) {
        let verdict = match (cut, arrived) {
            _ if sent == 0 => Err("nothing was sent"),
            (true, 0) => Ok("stopped"),
            (true, _) => Err("this should have stopped"),
            (false, _) if arrived == sent => Ok("flows"),
            (false, _) => Err("this should flow"),
        };
        self.right &= verdict.is_ok();
        self.screen.row(name, result, verdict);
    }

    /// Ends the datagrams to the neighbour: none may have been lost since they began.
    fn end(mut self) -> bool {
        let flow = self.floods.pop().expect("the neighbour's is the last");
        let received = flow.traffic.received();
        let lost = flow.traffic.lost();
        let verdict = if lost == 0 { Ok("undisturbed") } else { Err("the neighbour was disturbed") };
        self.screen.row("the same, since the beginning", &format!("{lost} of more than {received} lost"), verdict);
        self.right && lost == 0
    }
}
