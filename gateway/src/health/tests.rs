use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn out(health: &mut Health, now: Instant) -> Duration {
    health.failed(Failure::Silent, now).unwrap()
}

#[test]
fn two_failures_in_a_row_take_a_pod_out_and_one_silence_does() {
    let now = Instant::now();
    let mut health = Health::default();
    assert_eq!(health.failed(Failure::Reset, now), None);
    assert_eq!(health.standing(), Standing::In);
    assert_eq!(health.failed(Failure::Connect, now), Some(OUT_FIRST));
    assert_eq!(health.standing(), Standing::Out);
    assert_eq!(
        Health::default().failed(Failure::Silent, now),
        Some(OUT_FIRST)
    );
}

#[test]
fn an_answer_between_two_failures_keeps_a_pod_in() {
    let now = Instant::now();
    let mut health = Health::default();
    for _ in 0..10 {
        assert_eq!(health.failed(Failure::Reset, now), None);
        health.answered();
    }
    assert_eq!(health.standing(), Standing::In);
}

#[test]
fn a_pod_that_is_no_better_stays_out_twice_as_long_up_to_a_minute() {
    let mut now = Instant::now();
    let mut health = Health::default();
    out(&mut health, now);
    for seconds in [5, 10, 20, 40, 60, 60] {
        now += SECOND * (seconds - 1);
        assert!(!health.wants_probe(now));
        now += SECOND;
        assert!(health.wants_probe(now));
        health.probed(false, now);
    }
}

#[test]
fn a_pod_that_answers_its_probe_gets_one_request_and_comes_back_with_its_answer() {
    let mut now = Instant::now();
    let mut health = Health::default();
    now += out(&mut health, now);
    health.probed(true, now);
    assert_eq!(health.standing(), Standing::In);
    health.asked(now);
    assert_eq!(health.standing(), Standing::Out, "one is enough");
    health.answered();
    assert_eq!(health, Health::default());
}

#[test]
fn a_trial_that_fails_takes_the_pod_out_for_longer() {
    let mut now = Instant::now();
    let mut health = Health::default();
    now += out(&mut health, now);
    health.probed(true, now);
    health.asked(now);
    assert_eq!(health.failed(Failure::Reset, now), Some(OUT_FIRST * 2));
}

#[test]
fn a_trial_whose_client_left_can_be_taken_by_another_request() {
    let mut now = Instant::now();
    let mut health = Health::default();
    now += out(&mut health, now);
    health.probed(true, now);
    health.asked(now);
    health.left();
    assert_eq!(health.standing(), Standing::In);
}

#[test]
fn all_requests_that_a_dying_pod_had_take_it_out_once() {
    let now = Instant::now();
    let mut health = Health::default();
    let news: Vec<_> = (0..17)
        .filter_map(|_| health.failed(Failure::Reset, now))
        .collect();
    assert_eq!(news, [OUT_FIRST]);
}

#[test]
fn a_pod_without_a_connection_is_suspect_until_its_probe_tells() {
    let now = Instant::now();
    let mut well = Health::default();
    well.failed(Failure::Connect, now);
    assert_eq!(well.standing(), Standing::Suspect);
    assert!(!well.wants_probe(now) && well.wants_probe(now + SUSPECT_FOR));
    let mut ill = well;
    assert_eq!(well.probed(true, now + SUSPECT_FOR), None);
    assert_eq!(well, Health::default());
    assert_eq!(ill.probed(false, now + SUSPECT_FOR), Some(OUT_FIRST));
}

#[test]
fn a_full_pod_says_when_it_has_room_and_no_pod_is_full_for_longer_than_a_minute() {
    let now = Instant::now();
    let mut health = Health::default();
    health.is_full(SECOND * 3, now);
    assert_eq!(health.full_for(now + SECOND / 2), Some(SECOND * 5 / 2));
    health.is_full(SECOND / 2, now);
    assert_eq!(health.full_for(now + SECOND / 2), None);
    health.is_full(Duration::from_secs(u64::MAX), now);
    assert_eq!(health.full_for(now), Some(FULL_AT_MOST));
    health.answered();
    assert!(
        health.full_for(now).is_some(),
        "an answer to another request gives no room"
    );
}

#[test]
fn one_request_a_second_looks_whether_a_full_pod_still_is() {
    let mut now = Instant::now();
    let mut health = Health::default();
    for _ in 0..20 {
        health.is_full(SECOND * 50, now);
        assert!(health.full_for(now + SECOND * 99 / 100).is_some());
        now += SECOND;
        assert_eq!(health.full_for(now), None);
        health.asked(now);
        assert!(health.full_for(now).is_some(), "one is enough");
    }
}

#[test]
fn a_pod_that_does_not_refuse_who_looks_has_room() {
    let now = Instant::now();
    let mut health = Health::default();
    health.is_full(SECOND * 50, now);
    health.asked(now + SECOND);
    health.asked(now + SECOND * 2);
    assert_eq!(health.full_for(now + SECOND * 2), None);
}

#[test]
fn a_request_that_leaves_a_full_pod_leaves_room() {
    let now = Instant::now();
    let mut health = Health::default();
    health.is_full(SECOND * 50, now);
    health.has_room();
    assert_eq!(health.full_for(now), None);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Answered,
    Failed(Failure),
    Asked,
    Left,
    Probed(bool),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Answered),
        prop_oneof![
            Just(Failure::Connect),
            Just(Failure::Reset),
            Just(Failure::Silent),
            Just(Failure::Unavailable)
        ]
        .prop_map(Event::Failed),
        Just(Event::Asked),
        Just(Event::Left),
        any::<bool>().prop_map(Event::Probed),
        (0..70_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    /// No history shuts a pod out: once it answers, it is back in rotation after a probe and one request.
    #[test]
    fn whatever_happened_a_pod_that_answers_comes_back(events in prop::collection::vec(event(), 0..60)) {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for event in events {
            match event {
                Event::Answered => health.answered(),
                Event::Failed(failure) => drop(health.failed(failure, now)),
                Event::Asked => health.asked(now),
                Event::Left => health.left(),
                Event::Probed(answers) => drop(health.probed(answers, now)),
                Event::Wait(seconds) => now += SECOND * u32::try_from(seconds).unwrap(),
            }
            prop_assert!(health.standing() != Standing::Out || health.failures > 0);
        }
        health.left();
        now += OUT_AT_MOST;
        if health.wants_probe(now) {
            health.probed(true, now);
        }
        prop_assert_eq!(health.standing(), Standing::In);
        health.asked(now);
        health.answered();
        prop_assert_eq!(health.standing(), Standing::In);
        prop_assert_eq!(health.ejections, 0);
    }

    /// A pod that never answers is never in rotation again, and is looked at no more often than its time says.
    #[test]
    fn a_dead_pod_stays_out_and_is_probed_ever_less(steps in prop::collection::vec(1..5_u32, 1..200)) {
        let (mut health, mut now) = (Health::default(), Instant::now());
        let start = now;
        out(&mut health, now);
        let mut probes = 0_u32;
        for step in steps {
            now += SECOND * step;
            if health.wants_probe(now) {
                probes += 1;
                health.probed(false, now);
            }
            prop_assert_eq!(health.standing(), Standing::Out);
        }
        let minutes = u32::try_from((now - start).as_secs() / 60).unwrap();
        prop_assert!(probes <= 5 + minutes, "{probes} in {minutes} min");
    }
}
