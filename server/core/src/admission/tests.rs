use super::*;
use crate::pace::Phase;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// A request of so many steps at 64x64 without guidance.
const fn work(steps: u32) -> Work {
    Work {
        size: (64, 64),
        steps,
        forwards: 1,
        begun: false,
    }
}

/// A step takes a second.
fn measured(places: usize, devices: u32, wait: Option<Duration>) -> Admission<u32> {
    let mut admission = Admission::new(Bounds {
        places,
        devices,
        wait,
    });
    let pace = admission.pace_mut();
    pace.record(Phase::Step, (64, 64), 1, SECOND);
    admission
}

fn one(admission: &mut Admission<u32>, steps: u32, job: u32) -> Result<Id, Refusal> {
    admission.reserve(1)?;
    let ids = admission
        .submit(vec![(work(steps), job)])
        .inspect_err(|_| {
            admission.give_back(1);
        })?;
    Ok(ids[0])
}

#[test]
fn a_request_is_taken_whole_or_not_at_all() {
    let mut admission = measured(3, 1, None);
    assert_eq!(admission.reserve(4), Err(Refusal::TooMany { asked: 4 }));
    assert_eq!(admission.reserve(2), Ok(()));
    assert!(matches!(admission.reserve(2), Err(Refusal::Full { .. })));
    assert_eq!(admission.used(), 2);
    assert_eq!(admission.reserve(1), Ok(()));
}

#[test]
fn images_begin_in_the_order_of_their_submission() {
    let mut admission = measured(8, 1, None);
    let ids: Vec<_> = (0..3).map(|job| one(&mut admission, 1, job)).collect();
    assert_eq!(admission.end(ids[1].unwrap()), Some(Some(1)));
    let order: Vec<_> = std::iter::from_fn(|| admission.take()).collect();
    assert_eq!(order, [(ids[0].unwrap(), 0), (ids[2].unwrap(), 2)]);
}

#[test]
fn a_place_is_given_back_once() {
    let mut admission = measured(1, 1, None);
    let id = one(&mut admission, 1, 0).unwrap();
    assert_eq!(admission.take(), Some((id, 0)));
    assert_eq!(admission.end(id), Some(None));
    assert_eq!(admission.end(id), None);
    assert_eq!(admission.used(), 0);
}

#[test]
fn nothing_is_known_of_the_time_before_a_step_was_measured() {
    let mut admission = Admission::new(Bounds {
        places: 9,
        devices: 1,
        wait: Some(Duration::ZERO),
    });
    for job in 0..9 {
        assert!(one(&mut admission, 1000, job).is_ok());
    }
    assert_eq!(admission.wait(), None);
    assert_eq!(admission.estimate(&[work(1)]), None);
}

#[test]
fn what_would_wait_too_long_is_refused_with_the_time_after_which_it_would_not() {
    let mut admission = measured(9, 1, Some(10 * SECOND));
    assert!(one(&mut admission, 8, 0).is_ok());
    assert!(one(&mut admission, 8, 1).is_ok(), "eight seconds are ahead");
    let refused = one(&mut admission, 1, 2);
    let told = full(Some(6 * SECOND));
    assert_eq!(refused, Err(told));
    assert_eq!(admission.room(1), Err(told));
}

#[test]
fn what_was_reserved_while_there_was_room_is_refused_when_others_were_faster() {
    let mut admission = measured(9, 1, Some(10 * SECOND));
    admission.reserve(1).unwrap();
    one(&mut admission, 20, 0).unwrap();
    let late = admission.submit(vec![(work(1), 1)]);
    assert!(matches!(late, Err(Refusal::Full { .. })));
    assert_eq!(admission.used(), 2, "its place is still reserved");
}

#[test]
fn the_wait_shrinks_with_each_step_and_is_shared_by_the_devices() {
    let mut admission = measured(9, 2, None);
    let first = one(&mut admission, 8, 0).unwrap();
    one(&mut admission, 4, 1).unwrap();
    assert_eq!(admission.wait(), Some(6 * SECOND));
    admission.has_left(first, 2);
    assert_eq!(admission.wait(), Some(3 * SECOND));
    assert_eq!(admission.estimate(&[work(4)]), Some(7 * SECOND));
    assert_eq!(admission.estimate(&[work(4), work(4)]), Some(7 * SECOND));
}

#[test]
fn a_place_is_promised_for_when_the_next_image_ends() {
    let mut admission = measured(2, 1, None);
    let ids = [8, 8].map(|steps| one(&mut admission, steps, 0).unwrap());
    assert_eq!(admission.room(1), Err(full(None)));
    admission.has_left(ids[0], 3);
    assert_eq!(admission.room(1), Err(full(Some(3 * SECOND))));
}

#[test]
fn many_images_that_find_no_room_leave_it_to_one() {
    let mut admission = measured(4, 1, None);
    one(&mut admission, 8, 0).unwrap();
    let refused = admission.room(4);
    assert!(
        matches!(refused, Err(Refusal::Full { for_all: false, .. })),
        "{refused:?}"
    );
    assert_eq!(admission.room(1), Ok(()));
}

/// The refusal of a full queue, which a request of one image gets, too.
fn full(retry_after: Option<Duration>) -> Refusal {
    Refusal::Full {
        retry_after,
        for_all: true,
    }
}

#[derive(Clone, Debug)]
enum Event {
    Reserve(usize),
    GiveBack,
    Submit(u32),
    Take,
    Step,
    End(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..6_usize).prop_map(Event::Reserve),
        Just(Event::GiveBack),
        (1..30_u32).prop_map(Event::Submit),
        Just(Event::Take),
        Just(Event::Step),
        (0..9_usize).prop_map(Event::End),
    ];
    proptest::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn bounds_hold_nobody_is_passed_over_and_every_place_comes_back(
        events in events(),
        places in 1..9_usize,
        wait in proptest::option::of(0..60_u64),
    ) {
        let wait = wait.map(Duration::from_secs);
        let mut admission = measured(places, 1, wait);
        let mut reservations: Vec<usize> = Vec::new();
        let mut alive: Vec<(Id, u32)> = Vec::new();
        let mut last_taken = None;
        for event in events {
            match event {
                Event::Reserve(images) => {
                    if admission.reserve(images).is_ok() {
                        reservations.push(images);
                    }
                }
                Event::GiveBack => admission.give_back(reservations.pop().unwrap_or(0)),
                Event::Submit(steps) => {
                    let Some(images) = reservations.pop() else { continue };
                    let ahead = admission.wait();
                    match admission.submit(vec![(work(steps), 0); images]) {
                        Ok(ids) => {
                            prop_assert!(wait.is_none() || ahead <= wait);
                            alive.extend(ids.into_iter().map(|id| (id, steps)));
                        }
                        Err(_) => {
                            prop_assert!(ahead > wait);
                            admission.give_back(images);
                        }
                    }
                }
                Event::Take => {
                    if let Some((id, _)) = admission.take() {
                        prop_assert!(last_taken < Some(id), "passed over");
                        prop_assert!(admission.holds(id));
                        last_taken = Some(id);
                    }
                }
                Event::Step => {
                    if let Some((id, steps)) = alive.first_mut() {
                        *steps = steps.saturating_sub(1);
                        admission.has_left(*id, *steps);
                    }
                }
                Event::End(position) => {
                    if position < alive.len() {
                        let (id, _) = alive.remove(position);
                        prop_assert!(admission.end(id).is_some());
                        prop_assert!(admission.end(id).is_none());
                    }
                }
            }
            let used = alive.len() + reservations.iter().sum::<usize>();
            prop_assert_eq!(admission.used(), used);
            prop_assert!(used <= places);
            prop_assert!(admission.waiting() <= alive.len());
        }
        for (id, _) in alive {
            prop_assert!(admission.end(id).is_some());
        }
        admission.give_back(reservations.into_iter().sum());
        prop_assert_eq!((admission.used(), admission.waiting()), (0, 0));
        prop_assert!(admission.room(places).is_ok());
    }
}
