use super::*;
use jiff::SignedDuration;
use zimage_crds::ShiftTrigger;

const BUSY: Load = Load::Fresh {
    utilization: 0.99,
    waiting: 3,
};
const BUSY_WITHOUT_QUEUE: Load = Load::Fresh {
    utilization: 0.99,
    waiting: 0,
};
const IDLE: Load = Load::Fresh {
    utilization: 0.05,
    waiting: 0,
};
const BETWEEN: Load = Load::Fresh {
    utilization: 0.9,
    waiting: 0,
};

/// A deployment whose tiers have two ready pods each, watched second by second.
struct Watched {
    policy: Policy,
    observation: Observation,
    state: State,
    now: Moment,
}

impl Watched {
    fn new() -> Self {
        Self::with(ShiftSpec::default())
    }

    fn with(shift: ShiftSpec) -> Self {
        let normal = Weights {
            primary: 90,
            fallback: 10,
        };
        let policy = Policy {
            normal,
            shift,
            has_fallback: true,
            is_paused: false,
        };
        let now = Moment {
            monotonic: Instant::now(),
            wall: Timestamp::from_second(1_700_000_000).unwrap(),
        };
        let ready = TierObservation {
            ready_pods: 2,
            load: IDLE,
            ..TierObservation::default()
        };
        let state = State::new(&policy, now);
        Self {
            policy,
            observation: Observation {
                primary: ready,
                fallback: ready,
            },
            state,
            now,
        }
    }

    /// Lets `count` seconds pass under `load`, one sample a second, the first one now.
    fn seconds(mut self, count: i64, load: Load) -> Self {
        for _ in 0..count {
            self = self.sample(load);
            self.now.monotonic += Duration::from_secs(1);
            self.now.wall += Duration::from_secs(1);
        }
        self
    }

    fn sample(mut self, load: Load) -> Self {
        self.observation.primary.load = load;
        self.decide()
    }

    fn ready(mut self, primary: u32, fallback: u32) -> Self {
        self.observation.primary.ready_pods = primary;
        self.observation.fallback.ready_pods = fallback;
        self.decide()
    }

    fn decide(mut self) -> Self {
        self.state = decide(&self.policy, &self.observation, &self.state, self.now);
        self
    }

    #[track_caller]
    fn expect(self, state: TrafficState, primary: i32, fallback: i32) -> Self {
        assert_eq!(self.state.state(), state);
        assert_eq!(self.state.weights(), Weights { primary, fallback });
        self
    }

    fn status(&self) -> TrafficStatus {
        TrafficStatus {
            weights: self.state.weights(),
            split: String::new(),
            state: self.state.state(),
            reason: self.state.reason().as_str().to_owned(),
            since: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.state.since()),
        }
    }

    /// A new process, which knows what the status tells.
    fn restarted(mut self, status: &TrafficStatus) -> Self {
        self.state = State::from_status(status, self.now);
        self
    }

    fn shifted() -> Self {
        Self::new()
            .seconds(31, BUSY)
            .expect(TrafficState::Shifted, 0, 100)
    }
}

#[test]
fn saturation_shifts_after_the_whole_window_and_not_before() {
    Watched::new()
        .seconds(30, BUSY)
        .expect(TrafficState::Normal, 90, 10)
        .sample(BUSY)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn the_limit_itself_is_not_above_the_limit() {
    Watched::new()
        .seconds(
            60,
            Load::Fresh {
                utilization: 0.98,
                waiting: 9,
            },
        )
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn one_calm_sample_starts_the_window_anew() {
    Watched::new()
        .seconds(29, BUSY)
        .sample(IDLE)
        .seconds(30, BUSY)
        .expect(TrafficState::Normal, 90, 10)
        .sample(BUSY)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn utilisation_without_a_queue_shifts_only_when_the_trigger_says_so() {
    Watched::new()
        .seconds(300, BUSY_WITHOUT_QUEUE)
        .expect(TrafficState::Normal, 90, 10);
    let shift = ShiftSpec {
        trigger: ShiftTrigger::Utilization,
        ..ShiftSpec::default()
    };
    Watched::with(shift)
        .seconds(31, BUSY_WITHOUT_QUEUE)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn stale_samples_move_nothing_and_break_the_window() {
    Watched::new()
        .seconds(29, BUSY)
        .seconds(600, Load::Stale)
        .expect(TrafficState::Normal, 90, 10)
        .seconds(30, BUSY)
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn a_shift_without_figures_ends_after_ten_minutes_and_says_why_until_there_are_some() {
    let blind = Watched::shifted()
        .seconds(600, Load::Stale)
        .expect(TrafficState::Shifted, 0, 100)
        .sample(Load::Stale)
        .expect(TrafficState::Normal, 90, 10);
    assert_eq!(blind.state.reason(), Reason::FiguresMissing);
    let restarted = State::from_status(&blind.status(), blind.now);
    assert_eq!(restarted.reason(), Reason::FiguresMissing);
    let blind = blind.seconds(60, Load::Stale);
    assert_eq!(blind.state.reason(), Reason::FiguresMissing);
    let seeing = blind.sample(IDLE).expect(TrafficState::Normal, 90, 10);
    assert_eq!(seeing.state.reason(), Reason::WithinCapacity);
}

#[test]
fn a_single_figure_lets_a_shift_last_ten_minutes_more() {
    Watched::shifted()
        .seconds(599, Load::Stale)
        .sample(BUSY)
        .seconds(600, Load::Stale)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn traffic_returns_after_the_hold_and_a_whole_window_of_relief() {
    Watched::shifted()
        .seconds(60, IDLE)
        .expect(TrafficState::Shifted, 0, 100)
        .sample(IDLE)
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn the_minimum_hold_outlasts_a_shorter_relief() {
    let shift = ShiftSpec {
        return_after_seconds: 5,
        minimum_hold_seconds: 20,
        ..ShiftSpec::default()
    };
    Watched::with(shift)
        .seconds(31, BUSY)
        .seconds(19, IDLE)
        .expect(TrafficState::Shifted, 0, 100)
        .sample(IDLE)
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn a_load_between_the_two_limits_keeps_the_shift() {
    Watched::shifted()
        .seconds(600, BETWEEN)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn the_cool_down_keeps_the_next_shift_away() {
    Watched::shifted()
        .seconds(61, IDLE)
        .expect(TrafficState::Normal, 90, 10)
        .seconds(59, BUSY)
        .expect(TrafficState::Normal, 90, 10)
        .sample(BUSY)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn a_tier_without_ready_pods_loses_its_weight_at_once_and_gets_it_back_at_once() {
    Watched::new()
        .ready(0, 2)
        .expect(TrafficState::PrimaryDown, 0, 100)
        .ready(1, 2)
        .expect(TrafficState::Normal, 90, 10)
        .ready(2, 0)
        .expect(TrafficState::FallbackDown, 100, 0);
}

#[test]
fn without_any_ready_pod_the_last_weights_stay() {
    Watched::new()
        .ready(0, 0)
        .expect(TrafficState::BothDown, 90, 10);
    Watched::shifted()
        .ready(0, 0)
        .expect(TrafficState::BothDown, 0, 100);
}

#[test]
fn a_shift_is_impossible_while_the_fallback_is_down() {
    Watched::new()
        .ready(2, 0)
        .seconds(300, BUSY)
        .expect(TrafficState::FallbackDown, 100, 0)
        .ready(2, 1)
        .expect(TrafficState::Shifted, 0, 100);
}

#[test]
fn without_a_fallback_everything_goes_to_the_primary() {
    let mut watched = Watched::new();
    watched.policy.has_fallback = false;
    watched
        .seconds(300, BUSY)
        .expect(TrafficState::Normal, 100, 0)
        .ready(0, 0)
        .expect(TrafficState::BothDown, 100, 0);
}

#[test]
fn an_edit_of_the_weights_counts_at_once() {
    let mut watched = Watched::new();
    watched.policy.normal = Weights {
        primary: 50,
        fallback: 50,
    };
    watched.decide().expect(TrafficState::Normal, 50, 50);
}

#[test]
fn a_tier_without_gpu_never_shifts_and_does_not_stay_shifted() {
    Watched::new()
        .seconds(300, Load::NoGpu)
        .expect(TrafficState::Normal, 90, 10);
    Watched::shifted()
        .seconds(61, Load::NoGpu)
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn a_restarted_operator_keeps_the_shift_and_its_beginning() {
    let before = Watched::shifted();
    let since = before.state.since();
    let status = before.status();
    let after = before
        .restarted(&status)
        .seconds(30, BUSY)
        .expect(TrafficState::Shifted, 0, 100);
    assert_eq!(after.state.since(), since);
    assert!(
        after
            .state
            .agrees_with(&State::from_status(&status, after.now))
    );
}

#[test]
fn a_beginning_that_lies_ahead_counts_as_now() {
    let before = Watched::shifted();
    let mut status = before.status();
    status.since.0 += SignedDuration::from_hours(1);
    let now = before.now.wall;
    let after = before.restarted(&status);
    assert_eq!(after.state.since(), now);
    after
        .seconds(60, IDLE)
        .expect(TrafficState::Shifted, 0, 100)
        .sample(IDLE)
        .expect(TrafficState::Normal, 90, 10);
}

#[test]
fn weights_of_the_same_ratio_are_those_of_the_spec() {
    let policy = Watched::new().policy;
    let weights = |primary, fallback| Weights { primary, fallback };
    assert!(policy.is_as_specified(weights(90, 10)));
    assert!(policy.is_as_specified(weights(9, 1)));
    assert!(!policy.is_as_specified(weights(0, 100)));
    assert!(!policy.is_as_specified(weights(100, 0)));
    let alone = Policy {
        has_fallback: false,
        ..policy
    };
    assert!(alone.is_as_specified(weights(100, 0)));
}
