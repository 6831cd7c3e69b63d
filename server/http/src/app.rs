//! What the handlers share: who this server is, and the engine once there is one.

use crate::error::ApiError;
use crate::intake::Intake;
use crate::json_body;
use crate::metrics::HttpMetrics;
use crate::workers::Workers;
use axum::http::StatusCode;
use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;
use zimage_edge::{Budget, BudgetOptions, Resources};
use zimage_engine::Engine;

/// Which model this server has, and for whom.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Decides the defaults of a request.
    pub variant: Variant,
    /// Further name by which requests may ask for the model: that of the deployment.
    pub alias: Option<String>,
    /// Tier of the deployment, told in the header `x-zimage-tier`.
    pub tier: Option<String>,
}

impl Identity {
    /// Names that a request may give.
    pub fn names(&self) -> Vec<&str> {
        let alias = self
            .alias
            .as_deref()
            .filter(|alias| *alias != self.variant.model_name());
        [self.variant.model_name()]
            .into_iter()
            .chain(alias)
            .collect()
    }
}

#[derive(Clone)]
enum State {
    Loading,
    Serving(Engine),
    /// Still serves, but asks to be sent nothing new.
    Leaving(Engine),
}

/// The state of the server, shared by all handlers.
#[derive(Clone)]
pub struct App {
    pub(crate) identity: Arc<Identity>,
    pub(crate) limits: Limits,
    pub(crate) request_timeout: Duration,
    pub(crate) metrics: HttpMetrics,
    pub(crate) budget: Budget,
    pub(crate) intake: Intake,
    pub(crate) workers: Workers,
    pub(crate) precision: Option<&'static str>,
    state: Arc<RwLock<State>>,
}

impl App {
    /// A server that still loads its model.
    pub fn new(
        identity: Identity,
        limits: Limits,
        request_timeout: Duration,
        metrics: HttpMetrics,
    ) -> Self {
        let bytes = Resources::read().body_bytes();
        Self {
            identity: Arc::new(identity),
            limits,
            request_timeout,
            budget: budget(bytes, &metrics),
            intake: Intake::default(),
            workers: Workers::default(),
            precision: None,
            metrics,
            state: Arc::new(RwLock::new(State::Loading)),
        }
    }

    /// With so much memory for bodies, images of requests that wait and answers, instead of a quarter of all.
    #[must_use]
    pub fn with_buffered_bytes(self, bytes: usize) -> Self {
        Self {
            budget: budget(bytes, &self.metrics),
            ..self
        }
    }

    /// With other connections than those that the process's resources allow, or from elsewhere.
    #[must_use]
    pub fn with_intake(self, intake: Intake) -> Self {
        Self { intake, ..self }
    }

    /// Whose model is computed in this format of numbers, which the list of models tells.
    #[must_use]
    pub fn with_precision(self, precision: &'static str) -> Self {
        Self {
            precision: Some(precision),
            ..self
        }
    }

    /// The model is loaded: requests go to this engine.
    pub fn start_serving(&self, engine: Engine) {
        self.set(State::Serving(engine));
    }

    /// Answers probes with "not ready" and requests as before. Returns the engine when there is one.
    pub fn leave(&self) -> Option<Engine> {
        match self.get() {
            State::Loading => None,
            State::Serving(engine) | State::Leaving(engine) => {
                self.set(State::Leaving(engine.clone()));
                Some(engine)
            }
        }
    }

    pub(crate) fn engine(&self) -> Result<Engine, ApiError> {
        match self.get() {
            State::Serving(engine) | State::Leaving(engine) => Ok(engine),
            State::Loading => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the model is still being loaded",
            )
            .with_code("loading")
            .with_retry_after(Duration::from_secs(5))),
        }
    }

    /// Why the server must be started again, if it must.
    pub(crate) fn fault(&self) -> Option<Cow<'static, str>> {
        match self.get() {
            State::Serving(engine) | State::Leaving(engine) => {
                engine.failure()?;
                Some("the device failed; the log says why".into())
            }
            State::Loading => None,
        }
    }

    /// Why no request should be sent here, if so.
    pub(crate) fn obstacle(&self) -> Option<Cow<'static, str>> {
        self.fault().or_else(|| match self.get() {
            State::Loading => Some("the model is being loaded".into()),
            State::Serving(engine) => engine.stuck().map(Cow::from),
            State::Leaving(_) => Some("the server is shutting down".into()),
        })
    }

    fn get(&self) -> State {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, state: State) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

fn budget(total: usize, metrics: &HttpMetrics) -> Budget {
    let options = BudgetOptions {
        total,
        // Clients are the gateways, which tell theirs apart themselves.
        client_parts: 2,
        largest: json_body::MAX_BYTES,
        answers: total / 8 * 3,
    };
    Budget::new(options, metrics.edge.clone())
}
