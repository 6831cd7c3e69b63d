//! A device that is lost, and who is told to have a part in it.

use super::*;

/// A server whose device waits for the sender's end, and is lost then.
fn doomed() -> (App, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel::<()>();
    let app = loading();
    app.start_serving(engine(move |_| {
        // Ends when the test drops its end.
        let _released = released.recv();
        Err(ExecutorError::DeviceLost("XID 79".to_owned()))
    }));
    (app, release)
}

#[tokio::test]
async fn only_the_request_that_the_device_worked_on_is_told_to_have_cost_it() {
    let (app, release) = doomed();
    let mut asked = Vec::new();
    while app.engine().unwrap().room().is_ok() {
        let own = app.clone();
        asked.push(tokio::spawn(
            async move { post(&own, wish(json!({}))).await },
        ));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(release);
    let mut told = Vec::new();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        told.push(answer.header("x-zimage-refused").map(str::to_owned));
    }
    told.sort();
    assert_eq!(told, [None, Some("device-lost".to_owned())]);
}

#[tokio::test]
async fn a_request_whose_work_panics_is_told_to_have_cost_the_device() {
    let app = loading();
    app.start_serving(engine(|call| match call {
        Call::Step(_) => panic!("as the test wants"),
        _ => Ok(()),
    }));
    let answer = post(&app, wish(json!({"n": 2}))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("x-zimage-refused"), Some("device-lost"));
    assert!(!answer.body.to_string().contains("as the test wants"));
    let next = post(&app, wish(json!({}))).await;
    assert_eq!(next.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(next.header("x-zimage-refused"), None);
}
