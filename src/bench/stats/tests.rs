//! A thousand seeded runs for each number of rounds and each kind of noise: how often the
//! statistics claim a difference that is not there, miss the true ratio, or miss a difference.

use std::f64::consts::TAU;
use std::time::Duration;

use fastrand::Rng;

use crate::stats::order::turns;
use crate::stats::ratio::{Ratio, Verdict, corrected};
use crate::stats::stopping::{Reason, Stopping};

const RUNS: u64 = 1_000;
const DRAWS: usize = 1_000;
const SUBJECTS: usize = 3;

/// Noise of one per cent, in each way that a machine disturbs a measurement.
#[derive(Clone, Copy, Debug)]
enum Noise {
    Normal,
    Lognormal,
    /// The machine grows slower or faster by up to a fifth during the run, and wanders meanwhile.
    Drifting,
    /// One value in twenty is larger by a tenth to one and a half.
    Outliers,
}

const KINDS: [Noise; 4] = [
    Noise::Normal,
    Noise::Lognormal,
    Noise::Drifting,
    Noise::Outliers,
];

fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}

/// The values of the subjects in `rounds` rounds, whose true values are 100 times `factors`.
fn run(
    rng: &mut Rng,
    kind: Noise,
    rounds: usize,
    factors: [f64; SUBJECTS],
) -> [Vec<f64>; SUBJECTS] {
    let mut values = [const { Vec::new() }; SUBJECTS];
    let slope = (rng.f64() - 0.5) * 0.4 / (rounds * SUBJECTS) as f64;
    let mut machine = 1.0;
    for round in 0..rounds {
        for subject in turns(round, SUBJECTS) {
            machine += slope + 0.002 * normal(rng);
            let noise = match kind {
                Noise::Lognormal => (0.01 * normal(rng)).exp(),
                Noise::Drifting => machine * (1.0 + 0.01 * normal(rng)),
                Noise::Outliers if rng.u32(..20) == 0 => 1.1 + 1.4 * rng.f64(),
                Noise::Normal | Noise::Outliers => 1.0 + 0.01 * normal(rng),
            };
            values[subject].push(100.0 * factors[subject] * noise);
        }
    }
    values
}

#[test]
fn intervals_keep_their_promise() {
    for kind in KINDS {
        for rounds in [10, 30] {
            let (mut claimed, mut held, mut found) = (0, 0, 0);
            for seed in 0..RUNS {
                let mut rng = Rng::with_seed(seed);
                let [a, b, other] = run(&mut rng, kind, rounds, [1.0, 1.0, 1.03]);
                let same = Ratio::with_draws(&a, &b, 0.05, DRAWS).unwrap();
                claimed += u32::from(same.verdict() != Verdict::NoDifference);
                let more = Ratio::with_draws(&a, &other, 0.05, DRAWS).unwrap();
                held += u32::from(more.low <= 1.03 && 1.03 <= more.high);
                found += u32::from(more.verdict() == Verdict::More);
            }
            let figures = format!("{kind:?}, {rounds} rounds: {claimed} {held} {found}");
            println!("{figures}");
            assert!(claimed <= 65, "claimed, held, found: {figures}");
            assert!(held >= 930, "claimed, held, found: {figures}");
            assert!(found >= 950, "claimed, held, found: {figures}");
        }
    }
}

/// Two runs of which no round belongs to a round of the other, such as before and after a change.
/// A drift of the machine is no noise between rounds then, so that kind is left out.
#[test]
fn intervals_of_two_runs_keep_their_promise() {
    for kind in [Noise::Normal, Noise::Lognormal, Noise::Outliers] {
        for rounds in [10, 30] {
            let (mut claimed, mut found) = (0, 0);
            for seed in 0..RUNS {
                let mut rng = Rng::with_seed(seed);
                let [a, _, _] = run(&mut rng, kind, rounds, [1.0; SUBJECTS]);
                let [b, other, _] = run(&mut rng, kind, rounds, [1.0, 1.03, 1.0]);
                let same = Ratio::of_two_runs_with_draws(&a, &b, 0.05, DRAWS / 2).unwrap();
                claimed += u32::from(same.verdict() != Verdict::NoDifference);
                let more = Ratio::of_two_runs_with_draws(&a, &other, 0.05, DRAWS / 2).unwrap();
                found += u32::from(more.verdict() == Verdict::More);
            }
            assert!(
                claimed <= 65,
                "{kind:?}, {rounds} rounds: {claimed} of {RUNS} claim"
            );
            assert!(
                found >= 950,
                "{kind:?}, {rounds} rounds: {found} of {RUNS} are found"
            );
        }
    }
}

/// A run that ends by the width of its intervals claims no more than one of a fixed length.
#[test]
fn ending_by_width_flatters_nobody() {
    let rule = Stopping {
        fewest: 12,
        most: 40,
        width: 0.015,
        time: Duration::from_secs(1000),
    };
    for kind in KINDS {
        let (mut claimed, mut by_width) = (0, 0);
        for seed in 0..RUNS {
            let mut rng = Rng::with_seed(seed);
            let [a, b, _] = run(&mut rng, kind, rule.most, [1.0; SUBJECTS]);
            let (ratio, reason) = (1..)
                .find_map(|rounds| {
                    let ratio = Ratio::with_draws(&a[..rounds], &b[..rounds], 0.05, DRAWS);
                    let elapsed = Duration::from_secs(rounds as u64);
                    Some((ratio?, rule.ends(rounds, elapsed, &[ratio])?))
                })
                .unwrap();
            claimed += u32::from(ratio.verdict() != Verdict::NoDifference);
            by_width += u32::from(reason == Reason::Width);
        }
        println!("{kind:?}: {claimed} {by_width}");
        assert!(
            claimed <= 65,
            "{kind:?}: {claimed} of {RUNS} claim a difference"
        );
        assert!(by_width > 100, "{kind:?}: only {by_width} ended by width");
    }
}

/// Ten comparisons in each run: the share of runs with any false claim.
#[test]
fn many_comparisons_are_corrected_for() {
    let mut claimed = 0;
    for seed in 0..RUNS {
        let mut rng = Rng::with_seed(seed);
        claimed += u32::from((0..10).any(|_| {
            let [a, b, _] = run(&mut rng, Noise::Normal, 10, [1.0; SUBJECTS]);
            let ratio = Ratio::with_draws(&a, &b, corrected(0.05, 10), 2 * DRAWS).unwrap();
            ratio.verdict() != Verdict::NoDifference
        }));
    }
    assert!(claimed <= 65, "{claimed} of {RUNS} runs claim a difference");
}

#[test]
fn time_ends_a_run_whatever_the_intervals_say() {
    let rule = Stopping {
        fewest: 10,
        most: 100,
        width: 0.02,
        time: Duration::from_secs(60),
    };
    let wide = Ratio {
        ratio: 2.0,
        low: 1.5,
        high: 2.5,
        rounds: 10,
        outliers: 0,
    };
    let narrow = Ratio {
        low: 1.99,
        high: 2.01,
        ..wide
    };
    let ends = |rounds, seconds, ratio| rule.ends(rounds, Duration::from_secs(seconds), &[ratio]);
    assert_eq!(ends(10, 30, Some(wide)), None);
    assert_eq!(ends(10, 30, Some(narrow)), Some(Reason::Width));
    assert_eq!(ends(9, 30, Some(narrow)), None);
    // The eleventh round is likely to end after 61.6 s.
    assert_eq!(ends(10, 56, Some(wide)), Some(Reason::Time));
    assert_eq!(ends(10, 30, None), None);
    assert_eq!(ends(100, 30, Some(wide)), Some(Reason::Rounds));
}

#[test]
fn what_cannot_be_compared_has_no_ratio() {
    assert_eq!(Ratio::of(&[1.0; 4], &[1.0; 4], 0.05), None);
    assert_eq!(Ratio::of(&[1.0; 6], &[1.0; 5], 0.05), None);
    assert_eq!(Ratio::of(&[1.0, 0.0, 1.0, 1.0, 1.0], &[1.0; 5], 0.05), None);
    let same = Ratio::of(&[2.0; 6], &[3.0; 6], 0.05).unwrap();
    assert!(same.width() < 1e-9, "{same:?}");
    assert!((same.ratio - 1.5).abs() < 1e-12);
}

#[test]
fn an_outlier_is_left_out_and_counted() {
    let base = [100.0; 10];
    let mut other = [
        101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.1, 99.9, 100.3, 99.7,
    ];
    other[3] = 180.0;
    let ratio = Ratio::of(&base, &other, 0.05).unwrap();
    assert_eq!((ratio.rounds, ratio.outliers), (10, 1));
    assert_eq!(ratio.verdict(), Verdict::NoDifference);
}
