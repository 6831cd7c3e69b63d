//! A way to the API server on which a test plays faults: what passes it is refused, held back, or swallowed.

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, PostParams};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Largest request that is passed on.
const MOST_BYTES: usize = 4 << 20;

/// What happens to requests on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Lists and watches of these resources, such as `pods`, are refused as without the right to them.
    Refused(&'static str),
    /// Lists of these resources are held back until the fault is over.
    HeldBack(&'static str),
    /// What writes is taken and neither passed on nor answered until the fault is over; then it is passed on, where its
    /// sender still waits.
    Swallowed,
}

impl Fault {
    fn refuses(&self, request: &Request) -> bool {
        matches!(self, Self::Refused(resource) if reads(request, resource))
    }

    fn holds(&self, request: &Request) -> bool {
        match self {
            Self::HeldBack(resource) => {
                let query = request.uri().query().unwrap_or_default();
                reads(request, resource) && !query.contains("watch=true")
            }
            Self::Swallowed => request.method() != Method::GET,
            Self::None | Self::Refused(_) => false,
        }
    }
}

fn reads(request: &Request, resource: &str) -> bool {
    request.method() == Method::GET && request.uri().path().ends_with(&format!("/{resource}"))
}

/// Passes requests on to the API server, as an account of its own, until it is dropped.
pub struct Relay {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Way {
    client: Client,
    fault: watch::Receiver<Fault>,
}

impl Relay {
    /// A way for a new ServiceAccount that may do anything in its namespace: the audit log knows it by its name.
    ///
    /// # Errors
    /// When the account cannot be made, or no port can be bound.
    pub async fn start(client: &Client, namespace: &str, account: &str) -> Result<Self> {
        let client = client_of(client, namespace, account).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let router = Router::new().fallback(pass).with_state(Way {
            client,
            fault: faults,
        });
        let task = tokio::spawn(async move {
            // An accept error ends the way, and then the test that needs it.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            fault,
            task,
        })
    }

    /// From now on; [`Fault::None`] ends what was before.
    pub fn play(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(format!("kubeconfig-{}", self.address.port()));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "relay", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "relay", "user": {}}],
            "contexts": [{"name": "relay", "context": {"cluster": "relay", "user": "relay"}}],
            "current-context": "relay",
        });
        std::fs::write(&path, config.to_string()).context("failed to write a kubeconfig")?;
        Ok(path)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn client_of(client: &Client, namespace: &str, account: &str) -> Result<Client> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams::default();
    let made = serde_json::from_value(json!({"metadata": {"name": account}}))?;
    accounts.create(&parameters, &made).await?;
    let binding = serde_json::from_value(json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }))?;
    bindings.create(&parameters, &binding).await?;
    let asked: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}}))?;
    let answer = accounts.create_token_request(account, &parameters, &asked);
    let token = answer.await?.status.context("the account gets a token")?;
    let mut config = Config::infer().await?;
    config.auth_info = AuthInfo {
        token: Some(token.token.into()),
        ..AuthInfo::default()
    };
    Ok(Client::try_from(config)?)
}

async fn pass(State(mut way): State<Way>, request: Request) -> Response {
    if way.fault.borrow().refuses(&request) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "a test says so"});
        return (StatusCode::FORBIDDEN, axum::Json(status)).into_response();
    }
    // A sender that gives up ends this too: nothing of it is passed on.
    while way.fault.borrow_and_update().holds(&request) {
        if way.fault.changed().await.is_err() {
            break;
        }
    }
    match forward(way.client, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn forward(client: Client, request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().context("a path")?.as_str();
    let mut passed = http::Request::builder().method(head.method).uri(path);
    for name in [ACCEPT, CONTENT_TYPE] {
        if let Some(value) = head.headers.get(&name) {
            passed = passed.header(name, value);
        }
    }
    let body = to_bytes(body, MOST_BYTES).await?;
    let answer = client.send(passed.body(body.into())?).await?;
    let (head, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = head.status;
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    Ok(response)
}
