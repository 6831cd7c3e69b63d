//! What the engine promises, with an executor that a test holds by the hand.

use super::*;
use std::sync::mpsc as sync;
use std::time::Duration;
use zimage_core::executor::ExecutorError;
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
    Engine::start(
        Box::new(FakeExecutor::new(before)),
        options,
        EngineMetrics::default(),
    )
    .unwrap()
}

fn one_and_queue(max_queue_length: usize) -> EngineOptions {
    EngineOptions {
        max_batch_size: 1,
        max_queue_length,
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
async fn a_batch_changes_no_image() {
    let alone = start(one_and_queue(8), |_| Ok(()));
    let together = start(
        EngineOptions {
            max_batch_size: 4,
            max_queue_length: 8,
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
async fn a_dropped_ticket_frees_its_place_in_the_queue() {
    let (engine, calls, permit) = held(one_and_queue(1));
    let running = one(&engine, 1).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Begin));
    drop(one(&engine, 2).unwrap());
    permit.send(()).unwrap();
    assert_eq!(calls.recv_timeout(PATIENCE), Ok(Call::Step(1)));
    permit.send(()).unwrap();
    assert_eq!(
        calls.recv_timeout(PATIENCE),
        Ok(Call::Step(1)),
        "the place was freed between these steps"
    );
    let third = one(&engine, 3).unwrap();
    drop(permit);
    assert!(running.image().await.is_ok());
    assert!(third.image().await.is_ok());
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
                Err(ExecutorError::DeviceLost(_))
            ));
        }
        tokio::time::timeout(PATIENCE, engine.failed())
            .await
            .unwrap();
        assert!(matches!(one(&engine, 3), Err(SubmitError::Failed)));
    }
}

#[tokio::test]
async fn who_waits_for_a_device_that_never_answers_hears_of_its_fault() {
    let (engine, calls, _permit) = held(one_and_queue(1));
    let (running, waiting) = (one(&engine, 1).unwrap(), one(&engine, 2).unwrap());
    calls.recv_timeout(PATIENCE).unwrap();
    engine.fail();
    for ticket in [running, waiting] {
        let answer = tokio::time::timeout(PATIENCE, ticket.image())
            .await
            .unwrap();
        assert!(matches!(answer, Err(ExecutorError::DeviceLost(_))));
    }
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
