//! What the engine promises, with an executor that a test holds by the hand.

use super::*;
use std::num::NonZeroU32;
use std::sync::mpsc as sync;
use std::time::Duration;
use zimage_core::executor::{Executor, ExecutorError};
use zimage_core::fake::{Call, FakeExecutor};
use zimage_core::request::{ImageRequest, Noise};

const PATIENCE: Duration = Duration::from_secs(30);

fn request(seed: u64) -> ImageRequest {
    ImageRequest {
        num_inference_steps: 2,
        noise: Noise {
            seed,
            index: 0,
            count: 1,
        },
        ..ImageRequest::plain("a fox", (64, 64))
    }
}

fn start(
    options: EngineOptions,
    before: impl FnMut(Call) -> Result<(), ExecutorError> + Send + 'static,
) -> Engine {
    let executor = Box::new(FakeExecutor::new(before));
    Engine::start(vec![executor], options, EngineMetrics::default()).unwrap()
}

fn one_and_queue(max_queue_length: usize) -> EngineOptions {
    EngineOptions {
        max_batch_size: 1,
        max_queue_length,
        ..EngineOptions::default()
    }
}

/// An engine whose calls are reported and then wait for a permission each.
fn held(options: EngineOptions) -> (Engine, sync::Receiver<Call>, sync::Sender<()>) {
    let (report, reports) = sync::channel();
    let (permit, permits) = sync::channel();
    let engine = start(options, move |call| {
        // The test may have ended; the thread then goes on alone.
        let _reported = report.send(call);
        let _permitted = permits.recv();
        Ok(())
    });
    (engine, reports, permit)
}

fn one(engine: &Engine, seed: u64) -> Result<Ticket, SubmitError> {
    Ok(engine.submit(vec![request(seed)])?.pop().unwrap())
}

#[tokio::test]
async fn a_request_is_answered_with_its_image() {
    let engine = start(one_and_queue(0), |_| Ok(()));
    let generated = one(&engine, 1).unwrap().image().await.unwrap();
    assert_eq!((generated.pixels.width(), generated.steps), (64, 2));
}

#[tokio::test]
async fn images_that_run_together_change_each_other_in_nothing() {
    let alone = start(one_and_queue(8), |_| Ok(()));
    let together = start(
        EngineOptions {
            max_batch_size: 4,
            ..one_and_queue(8)
        },
        |_| Ok(()),
    );
    let requests: Vec<_> = (0..8).map(request).collect();
    let batch = together.submit(requests.clone()).unwrap();
    for (request, ticket) in requests.into_iter().zip(batch) {
        let expected = alone
            .submit(vec![request])
            .unwrap()
            .pop()
            .unwrap()
            .image()
            .await
            .unwrap();
        assert_eq!(ticket.image().await.unwrap().pixels, expected.pixels);
    }
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_refused_at_once() {
    let (engine, calls, permit) = held(one_and_queue(1));
    let running = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    let waiting = one(&engine, 2).unwrap();
    assert!(matches!(
        one(&engine, 3),
        Err(SubmitError::QueueFull { .. })
    ));
    drop(permit);
    assert!(running.image().await.is_ok());
    assert!(waiting.image().await.is_ok());
    assert!(one(&engine, 4).unwrap().image().await.is_ok());
}

#[tokio::test]
async fn the_images_of_a_request_are_taken_together_or_not_at_all() {
    let (engine, calls, permit) = held(one_and_queue(2));
    let _running = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    let three = || vec![request(1), request(2), request(3)];
    assert!(matches!(
        engine.submit(three()),
        Err(SubmitError::QueueFull { .. })
    ));
    let four = vec![request(0), request(1), request(2), request(3)];
    assert!(matches!(
        engine.submit(four),
        Err(SubmitError::TooMany { asked: 4, most: 3 })
    ));
    assert_eq!(
        engine.submit(vec![request(1), request(2)]).unwrap().len(),
        2
    );
    drop(permit);
}

#[tokio::test]
async fn a_dropped_ticket_stops_its_request_before_the_next_step() {
    let (engine, calls, permit) = held(one_and_queue(1));
    let ticket = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    permit.send(()).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Step(1)));
    drop(ticket);
    let next = one(&engine, 2).unwrap();
    permit.send(()).unwrap();
    assert_eq!(
        calls.recv_timeout(PATIENCE),
        Ok(Call::Begin),
        "and no second step of the first"
    );
    drop(permit);
    assert!(next.image().await.is_ok());
}

#[tokio::test]
async fn a_dropped_ticket_frees_its_place_while_the_device_stands_still() {
    let (engine, calls, permit) = held(one_and_queue(1));
    let running = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    drop(one(&engine, 2).unwrap());
    let third = one(&engine, 3).unwrap();
    drop(running);
    let fourth = one(&engine, 4).unwrap();
    assert!(matches!(
        one(&engine, 5),
        Err(SubmitError::QueueFull { .. })
    ));
    drop(permit);
    assert!(third.image().await.is_ok());
    assert!(fourth.image().await.is_ok());
}

#[tokio::test]
async fn places_that_were_kept_for_a_request_come_back_when_it_is_given_up() {
    let engine = start(one_and_queue(1), |_| Ok(()));
    let places = engine.reserve(2).unwrap();
    assert!(matches!(engine.room(), Err(SubmitError::QueueFull { .. })));
    drop(places);
    let places = engine.reserve(1).unwrap();
    let tickets = places.submit(vec![request(1), request(2)]).unwrap();
    for ticket in tickets {
        assert!(
            ticket.image().await.is_ok(),
            "one place was kept, one was free"
        );
    }
    assert_eq!(engine.room(), Ok(()));
}

#[tokio::test]
async fn a_request_of_more_images_than_there_are_places_left_gives_back_those_that_it_had() {
    let engine = start(one_and_queue(1), |_| Ok(()));
    let (places, other) = (engine.reserve(1).unwrap(), engine.reserve(1).unwrap());
    let refused = places.submit(vec![request(1), request(2)]);
    assert!(matches!(refused, Err(SubmitError::QueueFull { .. })));
    assert_eq!(engine.room(), Ok(()));
    assert_eq!(other.submit(vec![request(3)]).unwrap().len(), 1);
}

#[tokio::test]
async fn a_ticket_tells_each_step_and_the_previews_that_were_asked_for() {
    // Four events before the image: none is left out, however late they are read.
    let engine = start(one_and_queue(0), |_| Ok(()));
    let submission = Submission {
        request: request(1),
        preview_every: NonZeroU32::new(1),
    };
    let mut ticket = engine.submit(vec![submission]).unwrap().pop().unwrap();
    let mut told = Vec::new();
    while let Some(event) = ticket.next().await {
        told.push(match event {
            Event::Started { .. } => "started".to_owned(),
            Event::Step { done, of } => format!("step {done} of {of}"),
            Event::Preview(pixels) => format!("preview of {}", pixels.width()),
            Event::Done(generated) => format!("image of {}", generated.pixels.width()),
            Event::Failed(error) => error.to_string(),
        });
    }
    assert_eq!(
        told,
        [
            "started",
            "step 1 of 2",
            "preview of 8",
            "step 2 of 2",
            "image of 64"
        ]
    );
    assert!(ticket.next().await.is_none());
}

#[tokio::test]
async fn an_image_that_fails_fails_alone() {
    let mut steps = 0;
    let options = EngineOptions {
        max_batch_size: 2,
        ..one_and_queue(0)
    };
    let engine = start(options, move |call| {
        steps += u32::from(call == Call::Step(1));
        match call {
            Call::Step(_) if steps == 1 => Err(ExecutorError::Failed("no".to_owned())),
            _ => Ok(()),
        }
    });
    let tickets = engine.submit(vec![request(1), request(2)]).unwrap();
    let [first, second] = <[Ticket; 2]>::try_from(tickets).ok().unwrap();
    assert!(matches!(first.image().await, Err(ExecutorError::Failed(_))));
    assert!(second.image().await.is_ok());
}

#[tokio::test]
async fn devices_share_the_queue() {
    let (report, reports) = sync::channel();
    let (permit, permits) = sync::channel::<()>();
    let permits = std::sync::Arc::new(std::sync::Mutex::new(permits));
    let executor = |name: &'static str| -> Box<dyn Executor> {
        let (report, permits) = (report.clone(), std::sync::Arc::clone(&permits));
        Box::new(FakeExecutor::new(move |call| {
            if call == Call::Begin {
                let _reported = report.send(name);
                let _permitted = permits.lock().unwrap().recv();
            }
            Ok(())
        }))
    };
    let executors = vec![executor("first"), executor("second")];
    let engine = Engine::start(executors, one_and_queue(0), EngineMetrics::default()).unwrap();
    let tickets = engine.submit(vec![request(1), request(2)]).unwrap();
    let mut both = [0, 1].map(|_| reports.recv_timeout(PATIENCE).unwrap());
    both.sort_unstable();
    assert_eq!(both, ["first", "second"]);
    drop(permit);
    for ticket in tickets {
        assert!(ticket.image().await.is_ok());
    }
}

#[tokio::test]
async fn what_an_image_will_take_is_known_from_the_ones_before() {
    let engine = start(one_and_queue(4), |_| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    });
    assert_eq!(engine.estimate([&request(1)]), None);
    one(&engine, 1).unwrap().image().await.unwrap();
    let alone = engine.estimate([&request(1)]).unwrap();
    assert!(
        alone >= Duration::from_millis(80),
        "begin, two steps, decode: {alone:?}"
    );
    let four = engine.estimate(&[1, 2, 3, 4].map(request)).unwrap();
    assert!(four >= 3 * alone, "{four:?} of {alone:?}");
}

#[tokio::test]
async fn what_would_wait_longer_than_allowed_is_refused_with_a_time_to_return() {
    let options = EngineOptions {
        max_queue_time: Some(Duration::from_millis(1)),
        ..one_and_queue(8)
    };
    let (engine, _calls, permit) = held(options);
    (0..4).for_each(|_| permit.send(()).unwrap());
    // What the first one's calls took is not known: the one in front of them is.
    one(&engine, 1).unwrap().image().await.unwrap();
    let long = ImageRequest {
        num_inference_steps: u32::MAX,
        ..request(2)
    };
    let _running = engine.submit(vec![long]).unwrap();
    let Err(SubmitError::QueueFull { retry_after, .. }) = one(&engine, 3) else {
        panic!("it was taken");
    };
    let minute = Duration::from_secs(60);
    assert!(
        (Duration::from_secs(1)..=minute).contains(&retry_after),
        "{retry_after:?}"
    );
    drop(permit);
}

#[tokio::test]
async fn a_device_that_never_answers_is_not_ready_and_then_given_up() {
    let options = EngineOptions {
        patience: Duration::from_millis(20),
        ..one_and_queue(4)
    };
    let (engine, calls, _permit) = held(options);
    let (running, waiting) = (one(&engine, 1).unwrap(), one(&engine, 2).unwrap());
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    while !engine.has_failed() && engine.stuck().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(one(&engine, 3).is_err(), "nothing is taken from then on");
    let cause = tokio::time::timeout(PATIENCE, engine.failed())
        .await
        .unwrap();
    assert!(
        cause.starts_with("device stuck in begin of 64x64"),
        "{cause}"
    );
    let lost = ExecutorError::DeviceLost(cause.clone());
    assert_eq!(running.image().await.unwrap_err(), lost);
    let innocent = ExecutorError::NotBegun(cause);
    assert_eq!(waiting.image().await.unwrap_err(), innocent);
}

#[tokio::test]
async fn a_device_that_is_only_busy_or_idle_is_not_stuck() {
    let options = EngineOptions {
        patience: PATIENCE,
        ..one_and_queue(4)
    };
    let (engine, calls, permit) = held(options);
    assert_eq!(engine.stuck(), None);
    let ticket = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    assert_eq!(engine.stuck(), None);
    drop(permit);
    assert!(ticket.image().await.is_ok());
    assert_eq!(engine.stuck(), None);
}

#[tokio::test]
async fn draining_answers_what_was_taken_and_refuses_the_rest() {
    let (engine, calls, permit) = held(one_and_queue(4));
    let ticket = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    let draining = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drain().await }
    });
    while !matches!(one(&engine, 2), Err(SubmitError::Draining)) {
        tokio::task::yield_now().await;
    }
    assert!(!draining.is_finished());
    drop(permit);
    assert!(ticket.image().await.is_ok());
    tokio::time::timeout(PATIENCE, draining)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_lost_device_answers_everybody_and_takes_nothing_more() {
    for panics in [false, true] {
        let engine = start(one_and_queue(4), move |call| match call {
            Call::Step(_) if panics => panic!("illegal address"),
            Call::Step(_) => Err(ExecutorError::DeviceLost("illegal address".to_owned())),
            _ => Ok(()),
        });
        let (first, second) = (one(&engine, 1).unwrap(), one(&engine, 2));
        let error = first.image().await.unwrap_err();
        assert!(
            matches!(&error, ExecutorError::DeviceLost(cause) if cause.contains("illegal address")),
            "{error}"
        );
        if let Ok(second) = second {
            assert!(matches!(
                second.image().await,
                Err(ExecutorError::NotBegun(_))
            ));
        }
        tokio::time::timeout(PATIENCE, engine.failed())
            .await
            .unwrap();
        assert!(matches!(one(&engine, 3), Err(SubmitError::Failed)));
    }
}

#[tokio::test]
async fn what_ran_on_another_device_than_the_one_that_failed_is_not_to_blame() {
    let (report, begun) = sync::channel();
    let (fail, failing) = sync::channel::<()>();
    let (go_on, healthy) = sync::channel::<()>();
    let executor = |steps: sync::Receiver<()>, outcome: Result<(), ExecutorError>| {
        let report = report.clone();
        let before = move |call| match call {
            Call::Begin => {
                let _reported = report.send(());
                Ok(())
            }
            Call::Step(_) => {
                let _permitted = steps.recv();
                outcome.clone()
            }
            _ => Ok(()),
        };
        Box::new(FakeExecutor::new(before)) as Box<dyn Executor>
    };
    let lost = || ExecutorError::DeviceLost("illegal address".to_owned());
    let executors = vec![executor(failing, Err(lost())), executor(healthy, Ok(()))];
    let engine = Engine::start(executors, one_and_queue(0), EngineMetrics::default()).unwrap();
    let tickets = engine.submit(vec![request(1), request(2)]).unwrap();
    for _ in &tickets {
        begun.recv_timeout(PATIENCE).unwrap();
    }
    drop(fail);
    let mut told = Vec::new();
    for ticket in tickets {
        let answer = tokio::time::timeout(PATIENCE, ticket.image()).await;
        told.push(answer.unwrap().unwrap_err());
    }
    drop(go_on);
    let innocent = ExecutorError::NotBegun("illegal address".to_owned());
    assert!(
        told.contains(&lost()) && told.contains(&innocent),
        "{told:?}"
    );
}

#[tokio::test]
async fn who_waits_for_a_device_that_never_answers_hears_of_its_fault() {
    let (engine, calls, _permit) = held(one_and_queue(1));
    let (running, waiting) = (one(&engine, 1).unwrap(), one(&engine, 2).unwrap());
    calls.recv_timeout(PATIENCE).unwrap();
    engine.fail("XID 79");
    let mut told = Vec::new();
    for ticket in [running, waiting] {
        let answer = tokio::time::timeout(PATIENCE, ticket.image()).await;
        told.push(answer.unwrap().unwrap_err());
    }
    let cause = || "XID 79".to_owned();
    let expected = [
        ExecutorError::DeviceLost(cause()),
        ExecutorError::NotBegun(cause()),
    ];
    assert_eq!(told, expected);
    assert!(matches!(one(&engine, 3), Err(SubmitError::Failed)));
}

#[tokio::test]
async fn a_fault_of_one_request_does_not_concern_the_next() {
    let mut calls = 0;
    let engine = start(one_and_queue(4), move |call| {
        calls += usize::from(call == Call::Decode);
        if call == Call::Decode && calls == 1 {
            return Err(ExecutorError::OutOfMemory("no room".to_owned()));
        }
        Ok(())
    });
    assert!(matches!(
        one(&engine, 1).unwrap().image().await,
        Err(ExecutorError::OutOfMemory(_))
    ));
    assert!(one(&engine, 2).unwrap().image().await.is_ok());
}
