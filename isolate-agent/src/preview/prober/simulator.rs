//! kubelet's prober, slowly: one worker, one container, run in quarters of a second over every phase of its ticker, every
//! time that an answer takes, and every age of the container. The windows must be exactly what comes out.

use proptest::prelude::*;

use super::*;
use crate::spec::Timing;

/// Steps in a second.
const STEPS: i64 = 4;

/// What attempts come to before the cut.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// They are answered: at once, and the last ones after so many steps.
    Answered(i64),
    /// They fail, after so many steps.
    Failed(i64),
}

#[derive(Clone, Copy, Debug)]
struct World {
    timing: Timing,
    /// Age of the container at the cut, in steps.
    age: i64,
    /// Of the ticker, in steps.
    phase: i64,
    before: Before,
    /// Liveness waits until then, in steps from the cut; a startup probe that goes on then has succeeded.
    started: i64,
}

fn steps(secs: u64) -> i64 {
    i64::try_from(secs).expect("a small number") * STEPS
}

/// When the worker gives the container up, in steps from the cut; none if that was before the cut.
fn given_up(world: &World) -> Option<i64> {
    let Timing { initial_delay_secs, period_secs, timeout_secs, failure_threshold, .. } = world.timing;
    let (mut kept_tick, mut run, mut now) = (false, 0, -world.age);
    // When the attempt that is under way ends, and whether it fails.
    let mut attempt: Option<(i64, bool)> = None;
    loop {
        kept_tick |= (now - world.phase).rem_euclid(steps(period_secs)) == 0;
        loop {
            if let Some((end, fails)) = attempt {
                if end > now {
                    break;
                }
                attempt = None;
                run = if fails { run + 1 } else { 0 };
                if run == failure_threshold {
                    return (now >= 0).then_some(now);
                }
            }
            if !std::mem::take(&mut kept_tick) {
                break;
            }
            if (now + world.age) / STEPS >= i64::try_from(initial_delay_secs).expect("small") && now >= world.started {
                let timeout = steps(timeout_secs);
                attempt = Some(match world.before {
                    Before::Answered(_) if now < -timeout => (now, false),
                    // An answer that is on its way at the cut does not arrive.
                    Before::Answered(after) if now + after <= 0 => (now + after, false),
                    Before::Failed(after) if now + after < 0 => (now + after, true),
                    Before::Answered(_) | Before::Failed(_) => (now + timeout, true),
                });
            }
        }
        now += 1;
    }
}

/// Earliest and latest over all worlds, in whole seconds.
fn extremes(worlds: impl Iterator<Item = World>) -> Option<Window> {
    let all = worlds.filter_map(|world| given_up(&world));
    let (earliest, latest) = all.map(|step| (step, step)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    let whole = |steps: i64| u64::try_from(steps.div_euclid(STEPS)).expect("after the cut");
    Some(Window { earliest: whole(earliest), latest: Some(whole(latest + STEPS - 1)) })
}

fn ages(age: Age, longest: u64) -> impl Iterator<Item = i64> + Clone {
    // Where no bound is known, enough that nothing changes any more; whole seconds will do there.
    let (last, by) = age.at_most.map_or((age.at_least + longest, STEPS), |most| (most, 1));
    (steps(age.at_least)..=steps(last)).step_by(usize::try_from(by).expect("positive"))
}

fn worlds(timing: Timing, age: Age, before: Vec<Before>, started: i64) -> impl Iterator<Item = World> {
    let whole = timing.initial_delay_secs + timing.period_secs + run(&timing) + 1;
    ages(age, whole).flat_map(move |age| {
        let before = before.clone();
        (0..steps(timing.period_secs)).flat_map(move |phase| {
            let world = move |before| World { timing, age, phase, before, started };
            before.clone().into_iter().map(world)
        })
    })
}

/// Of a container that has started long ago.
pub(in crate::preview) fn simulated(timing: Timing, age: Age) -> Window {
    let answered = (0..=steps(timing.timeout_secs)).map(Before::Answered).collect();
    extremes(worlds(timing, age, answered, i64::MIN)).expect("an answered container is given up after the cut")
}

/// Of one that has not started yet; none if it would not be alive.
pub(in crate::preview) fn simulated_startup(timing: Timing, age: Age) -> Option<Window> {
    let failed = (0..=steps(timing.timeout_secs)).map(Before::Failed).collect();
    extremes(worlds(timing, age, failed, i64::MIN))
}

fn timings() -> impl Strategy<Value = Timing> {
    (0..6_u64, 1..5_u64, 1..6_u64, 1..5_u64).prop_map(|(delay, period, timeout, failures)| Timing {
        initial_delay_secs: delay,
        period_secs: period,
        timeout_secs: timeout,
        failure_threshold: failures,
        success_threshold: 1,
    })
}

fn an_age() -> impl Strategy<Value = Age> {
    (0..12_u64, any::<bool>())
        .prop_map(|(secs, known)| if known { Age::about(secs) } else { Age { at_least: secs, at_most: None } })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_probe_fails_when_the_simulator_says(timing in timings(), age in an_age()) {
        prop_assert_eq!(fails(&timing, age), simulated(timing, age));
    }

    #[test]
    fn a_startup_probe_fails_when_the_simulator_says(timing in timings(), secs in 0..30_u64) {
        let age = Age::about(secs);
        let oldest = age.at_most.expect("known");
        let attempts = oldest.checked_sub(timing.initial_delay_secs).map_or(0, |since| since / timing.period_secs + 1);
        if let Some(simulated) = simulated_startup(timing, age) {
            let window = startup_fails(&timing, age);
            prop_assert_eq!(window.latest, simulated.latest);
            // Beyond that it lives only if its attempts did not all take the same time, as those here do.
            if attempts < timing.failure_threshold {
                prop_assert_eq!(window.earliest, simulated.earliest);
            }
            prop_assert!(window.earliest <= simulated.earliest);
        }
        let anything = Age { at_least: secs, at_most: None };
        if let Some(simulated) = simulated_startup(timing, anything) {
            let window = startup_fails(&timing, anything);
            prop_assert_eq!(window.latest, simulated.latest);
            prop_assert!(window.earliest <= simulated.earliest);
        }
    }

    #[test]
    fn liveness_waits_for_startup(liveness in timings(), startup in timings(), age in an_age()) {
        let ends = steps(startup_ends(&startup, age));
        // The startup probe succeeds at any time from now until it would have failed.
        let all = (0..=ends).step_by(2).chain([ends]).filter_map(|started| {
            extremes(worlds(liveness, age, vec![Before::Answered(0)], started))
        });
        let simulated = all.reduce(Window::or).expect("it is given up after the cut");
        prop_assert_eq!(fails_after_startup(&liveness, &startup, age), simulated);
    }

    #[test]
    fn any_numbers_make_a_window(numbers in any::<[u32; 5]>(), age in any::<(u64, Option<u64>)>()) {
        let [delay, period, timeout, failures, successes] = numbers.map(u64::from);
        let timing = Timing {
            initial_delay_secs: delay,
            period_secs: period,
            timeout_secs: timeout,
            failure_threshold: failures,
            success_threshold: successes,
        };
        let age = Age { at_least: age.0, at_most: age.1.map(|more| age.0.saturating_add(more)) };
        for window in [fails(&timing, age), startup_fails(&timing, age), fails_after_startup(&timing, &timing, age)] {
            prop_assert!(window.latest.is_none_or(|latest| window.earliest <= latest || age.at_least > 0), "{:?}", window);
        }
    }
}

#[test]
fn the_classical_numbers() {
    let defaults = Timing::default();
    // 3 attempts 10 s apart with a second's timeout: 20 to 31 s after the cut.
    assert_eq!(fails(&defaults, Age::UNKNOWN), Window { earliest: 20, latest: Some(31) });
    assert_eq!(fails(&defaults, Age::NEW), Window { earliest: 21, latest: Some(31) });
    let slow = Timing { timeout_secs: 25, failure_threshold: 4, ..defaults };
    assert_eq!(fails(&slow, Age::about(1000)), Window { earliest: 75, latest: Some(110) });
    let once = Timing { failure_threshold: 1, ..defaults };
    assert_eq!(fails(&once, Age::UNKNOWN), Window { earliest: 0, latest: Some(11) });
    let late = Timing { initial_delay_secs: 60, ..defaults };
    assert_eq!(fails(&late, Age::about(20)), Window { earliest: 60, latest: Some(71) });
}
