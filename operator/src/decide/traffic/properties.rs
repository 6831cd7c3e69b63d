//! What holds for every course of events.

use super::*;
use jiff::SignedDuration;
use proptest::prelude::*;

fn loads() -> impl Strategy<Value = Load> {
    prop_oneof![
        1 => Just(Load::Stale),
        1 => Just(Load::NoGpu),
        6 => (0.0..=1.0, 0..4_u64).prop_map(|(utilization, waiting)| Load::Fresh { utilization, waiting }),
        6 => Just(Load::Fresh { utilization: 1.0, waiting: 2 }),
        6 => Just(Load::Fresh { utilization: 0.0, waiting: 0 }),
    ]
}

fn tiers() -> impl Strategy<Value = TierObservation> {
    (prop_oneof![1 => Just(0_u32), 9 => 1..4_u32], loads()).prop_map(|(ready_pods, load)| {
        TierObservation {
            ready_pods,
            load,
            ..TierObservation::default()
        }
    })
}

/// Stretches of equal observations, so that windows are filled at times.
fn courses() -> impl Strategy<Value = Vec<(Observation, u8)>> {
    let observations =
        (tiers(), tiers()).prop_map(|(primary, fallback)| Observation { primary, fallback });
    proptest::collection::vec((observations, 1..50_u8), 1..40)
}

fn policies() -> impl Strategy<Value = Policy> {
    (1..40_i32, 1..40_i32, 0..60_i32, 0..60_i32, any::<bool>()).prop_map(
        |(
            window_seconds,
            return_after_seconds,
            minimum_hold_seconds,
            cool_down_seconds,
            has_fallback,
        )| Policy {
            normal: Weights {
                primary: 90,
                fallback: 10,
            },
            shift: ShiftSpec {
                window_seconds,
                return_after_seconds,
                minimum_hold_seconds,
                cool_down_seconds,
                ..ShiftSpec::default()
            },
            has_fallback,
            is_paused: false,
        },
    )
}

/// Where both clocks start.
fn start() -> Moment {
    Moment {
        monotonic: Instant::now(),
        wall: Timestamp::from_second(1_700_000_000).unwrap(),
    }
}

fn tick(now: &mut Moment) {
    now.monotonic += Duration::from_secs(1);
    now.wall += Duration::from_secs(1);
}

/// One state after each second of a course; the wall clock jumps by `steps[i]` seconds before stretch i.
fn states(
    policy: &Policy,
    course: &[(Observation, u8)],
    steps: &[i64],
) -> Vec<(TrafficState, Reason, Weights)> {
    let mut now = start();
    let mut state = State::new(policy, now);
    let mut states = Vec::new();
    for (index, (observation, length)) in course.iter().enumerate() {
        now.wall += SignedDuration::from_secs(steps.get(index).copied().unwrap_or(0));
        for _ in 0..*length {
            state = decide(policy, observation, &state, now);
            states.push((state.state(), state.reason(), state.weights()));
            tick(&mut now);
        }
    }
    states
}

proptest! {
    #[test]
    fn every_course_keeps_the_invariants(policy in policies(), course in courses()) {
        let mut now = start();
        let mut state = State::new(&policy, now);
        for (observation, length) in course {
            for _ in 0..length {
                let next = decide(&policy, &observation, &state, now);
                check(&policy, &observation, &state, &next, now.monotonic)?;
                prop_assert_eq!(&decide(&policy, &observation, &state, now), &next);
                state = next;
                tick(&mut now);
            }
        }
    }

    #[test]
    fn a_wall_clock_that_jumps_by_an_hour_changes_no_decision(
        policy in policies(),
        course in courses(),
        steps in proptest::collection::vec(prop_oneof![Just(0), Just(3600), Just(-3600)], 40),
    ) {
        prop_assert_eq!(states(&policy, &course, &steps), states(&policy, &course, &[]));
    }

    #[test]
    fn a_paused_deployment_keeps_its_weights_whatever_happens(policy in policies(), course in courses()) {
        let policy = Policy { is_paused: true, ..policy };
        let before = State::new(&policy, start());
        let unchanged = (before.state(), before.reason(), before.weights());
        prop_assert!(states(&policy, &course, &[]).into_iter().all(|state| state == unchanged));
    }
}

fn check(
    policy: &Policy,
    observation: &Observation,
    before: &State,
    after: &State,
    now: Instant,
) -> Result<(), TestCaseError> {
    let primary_ready = observation.primary.ready_pods > 0;
    let fallback_ready = policy.has_fallback && observation.fallback.ready_pods > 0;
    let weights = after.weights();
    prop_assert!(REASONS.contains(&(after.state(), after.reason())));
    prop_assert!(
        weights.primary + weights.fallback > 0,
        "some tier is always asked"
    );
    if primary_ready || fallback_ready {
        prop_assert!(
            weights.primary == 0 || primary_ready,
            "weight only where a pod is ready"
        );
        prop_assert!(
            weights.fallback == 0 || fallback_ready,
            "weight only where a pod is ready"
        );
    }
    if observation.primary.load == Load::Stale && primary_ready && fallback_ready {
        let was_ready = matches!(before.state(), TrafficState::Normal | TrafficState::Shifted);
        prop_assert!(
            !was_ready
                || after.weights() == before.weights()
                || after.reason() == Reason::FiguresMissing,
            "stale samples move nothing before they are missing for long"
        );
    }
    let shifts_back =
        before.state() == TrafficState::Shifted && after.state() == TrafficState::Normal;
    if shifts_back && policy.has_fallback {
        let held = now.duration_since(before.began);
        prop_assert!(
            held >= seconds(policy.shift.minimum_hold_seconds),
            "a shift is held"
        );
    }
    prop_assert_eq!(
        after.began == before.began,
        after.state() == before.state() || now == before.began
    );
    Ok(())
}
