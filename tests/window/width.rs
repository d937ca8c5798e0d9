//! How wide the window is: from the first answer to the dump to the answer to the commit; and
//! what the watching costs. Half of the rounds are against a switch that does not tell, by turns.

use std::time::{Duration, Instant};

use crate::window::fixture::Fixture;

/// Entries on the bridge beside those that go.
const FILLER: usize = 10_000;

#[derive(Default)]
struct Figures {
    widths: Vec<Duration>,
    whole: Vec<Duration>,
    busy: Duration,
}

impl Figures {
    fn say(mut self) -> String {
        let rounds = u32::try_from(self.whole.len()).unwrap();
        self.widths.sort_unstable();
        self.whole.sort_unstable();
        let [width, whole] = [&self.widths, &self.whole].map(|times| times[times.len() / 2]);
        let most = self.widths.last().unwrap();
        let busy = self.busy / rounds;
        format!(
            "{width:.2?} median, {most:.2?} at most; the clean-up {whole:.2?}, of ovs-vswitchd's \
             time {busy:.2?}"
        )
    }
}

/// Processor time of ovs-vswitchd's main thread so far.
fn busy_for(fixture: &Fixture) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", fixture.node.vswitchd.pid()));
    let nanoseconds = stat.unwrap().split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(nanoseconds)
}

/// `cargo test --test switch window::width -- --nocapture` prints it.
#[test]
fn the_width_of_the_window() {
    for (entries, rounds) in [(1, 100), (40, 200), (4_000, 16), (5_000, 10)] {
        let versions = "OpenFlow10,OpenFlow14";
        let fixture = Fixture::beside("the_width", versions, 1, entries, FILLER);
        let mut connection = fixture.connect();
        let mut figures: [Figures; 2] = Default::default();
        for round in 0..2 * rounds {
            let tells = round % 2;
            fixture.proxy.mute(tells == 0);
            fixture.restore(&mut connection);
            fixture.proxy.window();
            let (begun, before) = (Instant::now(), busy_for(&fixture));
            let outcome = fixture.del(&fixture.dead, true);
            let figures = &mut figures[tells];
            figures.whole.push(begun.elapsed());
            figures.busy += busy_for(&fixture).saturating_sub(before);
            assert_eq!(outcome.bridges[0].counts.deleted, entries as u64);
            figures.widths.push(fixture.proxy.window().expect("a dump and a commit"));
        }
        let [without, with] = figures.map(Figures::say);
        eprintln!("window, {entries} entries beside {FILLER}, untold: {without}");
        eprintln!("window, {entries} entries beside {FILLER}, told:   {with}");
    }
}
