//! The routes of the control socket: reads requests, hands them to the loop, answers in JSON whatever happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, HttpBody},
    extract::{FromRequest, Path, Request, State, rejection::PathRejection},
    http::{Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::{
    Commands, FindError, Gone,
    limits::RequestError,
    openapi,
    protocol::{AddRequest, Code, ErrorBody, Isolation, Outcomes, RemoveRequest, Status, Verifications, VerifyRequest},
    requester::Requester,
    server::SocketCounters,
};
use crate::pod::{PodQuery, QueryError};

/// Largest body: 4096 UIDs and a reason take a fifth of it.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Time for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// When a request's head arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received(pub Instant);

/// An answer for a request that was not carried out.
pub(super) type Refusal = (StatusCode, Json<ErrorBody>);

pub(super) fn error(status: StatusCode, code: Code, message: String) -> Refusal {
    (status, Json(ErrorBody { code, message }))
}

pub(super) fn router(commands: Commands, counters: SocketCounters) -> Router {
    Router::new()
        .route("/v1/isolations", get(isolations).post(add))
        .route("/v1/isolations/remove", post(remove))
        .route("/v1/isolations/{uid}", delete(remove_one))
        .route("/v1/verify", post(verify))
        .route("/v1/status", get(status))
        .route("/v1/status/{uid}", get(status_of))
        .route("/v1/openapi.json", get(description))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(commands.clone(), refuse_the_isolated))
        .with_state(commands)
        .layer(middleware::from_fn_with_state(counters, count))
}

/// Isolates pods; answers when every packet of theirs is dropped, or says why not.
#[utoipa::path(post, path = "/v1/isolations", request_body = AddRequest, responses(
    (status = 200, body = Outcomes, description = "All done, or done but partly covered: see each `code`"),
    (status = 400, body = ErrorBody, description = "Not JSON, an unknown field, a malformed UID: nothing was changed. \
        With an `Outcomes` body: a prefix that means several pods"),
    (status = 404, body = Outcomes, description = "The worst outcome: no such pod on this node"),
    (status = 409, body = Outcomes, description = "The worst outcome: refused without `force`"),
    (status = 413, body = ErrorBody, description = "Larger than 1 MiB"),
    (status = 500, body = Outcomes, description = "The worst outcome: failed; the message says what is enforced"),
    (status = 503, body = ErrorBody, description = "The agent is shutting down"),
))]
async fn add(
    State(commands): State<Commands>,
    Extension(Received(received)): Extension<Received>,
    Extension(requester): Extension<Arc<Requester>>,
    JsonBody(request): JsonBody<AddRequest>,
) -> Result<Response, Refusal> {
    request.check().map_err(malformed)?;
    if !request.only_cuts() {
        refuse_the_ended(&requester)?;
    }
    Ok(outcomes(commands.add(request, || requester.describe(), received).await.map_err(gone)?))
}

/// Releases pods.
#[utoipa::path(post, path = "/v1/isolations/remove", request_body = RemoveRequest, responses(
    (status = 200, body = Outcomes, description = "All released"),
    (status = 400, body = ErrorBody, description = "Not JSON, an unknown field, a malformed UID, neither or both of \
        `uids` and `all`: nothing was released. With an `Outcomes` body: a prefix that means several pods"),
    (status = 404, body = Outcomes, description = "The worst outcome: no such pod on this node"),
    (status = 413, body = ErrorBody, description = "Larger than 1 MiB"),
    (status = 500, body = Outcomes, description = "The worst outcome: failed; the message says what is enforced"),
    (status = 503, body = ErrorBody, description = "The agent is shutting down"),
))]
async fn remove(
    State(commands): State<Commands>,
    Extension(requester): Extension<Arc<Requester>>,
    JsonBody(request): JsonBody<RemoveRequest>,
) -> Result<Response, Refusal> {
    request.check().map_err(malformed)?;
    refuse_the_ended(&requester)?;
    Ok(outcomes(commands.remove(request, requester.describe()).await.map_err(gone)?))
}

/// Releases one pod.
#[utoipa::path(delete, path = "/v1/isolations/{uid}",
    params(("uid" = String, Path, description = "The pod's UID in any spelling, a unique prefix of it, or \
        `namespace%2Fname`")),
    responses(
        (status = 200, body = Outcomes, description = "Released"),
        (status = 400, body = ErrorBody, description = "A malformed UID: nothing was released. With an `Outcomes` \
            body: a prefix that means several pods"),
        (status = 404, body = Outcomes, description = "No such pod on this node"),
        (status = 500, body = Outcomes, description = "Failed; the message says what is enforced"),
        (status = 503, body = ErrorBody, description = "The agent is shutting down"),
    ))]
async fn remove_one(
    State(commands): State<Commands>,
    Extension(requester): Extension<Arc<Requester>>,
    uid: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let request = RemoveRequest { uids: vec![uid_of(uid)?], all: false };
    request.check().map_err(malformed)?;
    refuse_the_ended(&requester)?;
    Ok(outcomes(commands.remove(request, requester.describe()).await.map_err(gone)?))
}

/// Proves by probes that isolated pods are cut off. Takes a second or so for each pod; nothing is changed.
#[utoipa::path(post, path = "/v1/verify", request_body = VerifyRequest, responses(
    (status = 200, body = Verifications, description = "All proved cut, or partly covered: see each `code`"),
    (status = 400, body = ErrorBody, description = "Not JSON, an unknown field, a malformed UID. With a \
        `Verifications` body: a prefix that means several pods"),
    (status = 404, body = Verifications, description = "The worst: no such isolated pod"),
    (status = 413, body = ErrorBody, description = "Larger than 1 MiB"),
    (status = 500, body = Verifications, description = "The worst: a leak, or nothing could be tried"),
    (status = 503, body = ErrorBody, description = "The agent is shutting down"),
))]
async fn verify(
    State(mut commands): State<Commands>,
    JsonBody(request): JsonBody<VerifyRequest>,
) -> Result<Response, Refusal> {
    request.check().map_err(malformed)?;
    let verifications = commands.verify(&request).await.map_err(gone)?;
    Ok((http_status(verifications.worst()), Json(verifications)).into_response())
}

/// Lists isolated pods, by UID.
#[utoipa::path(get, path = "/v1/isolations", responses(
    (status = 200, body = Vec<Isolation>, description = "Isolated pods, by UID"),
    (status = 503, body = ErrorBody, description = "The agent is shutting down"),
))]
async fn isolations(State(commands): State<Commands>) -> Result<Json<Vec<Isolation>>, Refusal> {
    Ok(Json(commands.status().await.map_err(gone)?.isolations))
}

/// Describes the node.
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, body = Status, description = "The node at this moment"),
    (status = 503, body = ErrorBody, description = "The agent is shutting down"),
))]
async fn status(State(commands): State<Commands>) -> Result<Json<Status>, Refusal> {
    Ok(Json(commands.status().await.map_err(gone)?))
}

/// Describes one isolated pod.
#[utoipa::path(get, path = "/v1/status/{uid}",
    params(("uid" = String, Path, description = "The pod's UID in any spelling, a unique prefix of it, or \
        `namespace%2Fname`")),
    responses(
        (status = 200, body = Isolation, description = "The pod, its hooks and its drops"),
        (status = 400, body = ErrorBody, description = "A malformed UID, or a prefix that means several pods"),
        (status = 404, body = ErrorBody, description = "The pod is not isolated"),
        (status = 503, body = ErrorBody, description = "The agent is shutting down"),
    ))]
async fn status_of(
    State(commands): State<Commands>,
    uid: Result<Path<String>, PathRejection>,
) -> Result<Json<Isolation>, Refusal> {
    let text = uid_of(uid)?;
    let query: PodQuery =
        text.parse().map_err(|e: QueryError| error(StatusCode::BAD_REQUEST, Code::Usage, e.to_string()))?;
    let mut status = commands.status().await.map_err(gone)?;
    match status.find(&text, &query) {
        Ok(index) => Ok(Json(status.isolations.swap_remove(index))),
        Err(e @ FindError::NotIsolated { .. }) => Err(error(StatusCode::NOT_FOUND, e.code(), e.to_string())),
        Err(e @ FindError::Ambiguous { .. }) => Err(error(StatusCode::BAD_REQUEST, e.code(), e.to_string())),
    }
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses(
    (status = 200, content_type = "application/json", description = "The description of this interface, in OpenAPI 3.1"),
))]
async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document())
}

async fn no_such_path(method: Method, uri: Uri) -> Refusal {
    let message = format!("no such path: {method} {}; GET /v1/openapi.json describes them all", uri.path());
    error(StatusCode::NOT_FOUND, Code::Usage, message)
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}; GET /v1/openapi.json describes what it takes", uri.path());
    error(StatusCode::METHOD_NOT_ALLOWED, Code::Usage, message)
}

/// Refuses what runs in an isolated pod: a Unix socket that is mounted into it goes past every hook.
async fn refuse_the_isolated(
    State(commands): State<Commands>,
    Extension(requester): Extension<Arc<Requester>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if let Some(pod) = requester.pod {
        let figures = commands.figures().await.map_err(gone)?;
        if figures.isolations.iter().any(|isolation| isolation.uid == pod) {
            tracing::warn!(
                peer = requester.describe(),
                %pod,
                "refused on the control socket: it runs in an isolated pod"
            );
            let message = format!("a process of the isolated pod {pod} cannot ask for anything here");
            return Err(error(StatusCode::FORBIDDEN, Code::Refused, message));
        }
    }
    Ok(next.run(request).await)
}

/// Refuses who had ended before its connection was taken: it may have run in an isolated pod. What only cuts comes true all the
/// same, for a responder who did not wait for a daemon that hung.
fn refuse_the_ended(requester: &Requester) -> Result<(), Refusal> {
    if requester.ended {
        tracing::warn!(
            peer = requester.describe(),
            "refused on the control socket: it ended before it was listened to"
        );
        let message = "who asked has ended, and where it ran cannot be told; nothing was changed".to_owned();
        return Err(error(StatusCode::FORBIDDEN, Code::Refused, message));
    }
    Ok(())
}

/// Counts the requests that are the client's mistake.
async fn count(State(counters): State<SocketCounters>, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    let status = response.status();
    if status.is_client_error() && !matches!(status, StatusCode::CONFLICT | StatusCode::NOT_FOUND) {
        counters.bad_requests.inc();
        tracing::warn!(%method, path = uri.path(), status = status.as_u16(), "bad request on the control socket");
    }
    response
}

fn outcomes(outcomes: Outcomes) -> Response {
    (http_status(outcomes.worst()), Json(outcomes)).into_response()
}

const fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Done | Code::PartlyCovered => StatusCode::OK,
        Code::Usage => StatusCode::BAD_REQUEST,
        Code::NoSuchPod => StatusCode::NOT_FOUND,
        Code::Refused => StatusCode::CONFLICT,
        Code::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn malformed(cause: RequestError) -> Refusal {
    error(StatusCode::BAD_REQUEST, Code::Usage, cause.to_string())
}

fn gone(gone: Gone) -> Refusal {
    error(StatusCode::SERVICE_UNAVAILABLE, Code::Failed, gone.to_string())
}

fn uid_of(path: Result<Path<String>, PathRejection>) -> Result<String, Refusal> {
    let Path(uid) = path.map_err(|e| error(StatusCode::BAD_REQUEST, Code::Usage, e.body_text()))?;
    Ok(uid)
}

/// A JSON body of bounded size that arrives in bounded time, whatever its content type claims.
struct JsonBody<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Refusal> {
        let bytes = read(request.into_body()).await?;
        let value = serde_json::from_slice(&bytes).map_err(|e| {
            let what = if e.is_data() { "the body is not what is expected here" } else { "the body is not valid JSON" };
            error(StatusCode::BAD_REQUEST, Code::Usage, format!("{what}: {e}; nothing was changed"))
        })?;
        Ok(Self(value))
    }
}

async fn read(body: Body) -> Result<bytes::Bytes, Refusal> {
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY_BYTES} bytes; nothing was changed, split it up");
        error(StatusCode::PAYLOAD_TOO_LARGE, Code::Usage, message)
    };
    // The size that the client announces; what it does not announce, `Limited` cuts.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(e)) => {
            Err(error(StatusCode::BAD_REQUEST, Code::Usage, format!("the body broke off: {e}; nothing was changed")))
        }
        Err(_elapsed) => {
            let message = "the body did not arrive in time; nothing was changed".to_owned();
            Err(error(StatusCode::REQUEST_TIMEOUT, Code::Usage, message))
        }
    }
}
