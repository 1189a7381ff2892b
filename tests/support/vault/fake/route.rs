//! From a request to its answer: namespace, token, policy, engine, lease, envelope.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::super::wire::{Request, Response};
use super::state::{Answer, Call, Engine, Op, Refusal, Reply, State, nothing, refuse};
use super::sys::{Asking, check};
use super::token::Token;
use super::values::duration;

/// What a request means, taken apart once.
struct Route<'a> {
    request: &'a Request,
    op: Op,
    namespace: String,
    path: &'a str,
    mount: String,
    body: Map<String, Value>,
    now: Timestamp,
}

/// Answers a request now. Faults are not its business.
pub fn answer(state: &mut State, request: &Request, now: Timestamp) -> Response {
    state.sweep(now);
    if let Some((status, body)) = state.health(&request.path, now) {
        return Response::json(status, &body);
    }
    if state.sealed && !request.admin {
        return Response::errors(503, &["Vault is sealed"]);
    }
    if let Some(status) = state.standby.filter(|_| !request.admin) {
        return Response::errors(status, &["Vault is in standby mode"]);
    }
    if !request.admin
        && let Some(wait) = state.over_quota(&request.path, now)
    {
        let error = format!("request path {:?}: rate limit quota exceeded", request.path);
        let mut response = Response::errors(429, &[&error]);
        if state.quota_headers {
            response.headers.push(("retry-after".to_owned(), wait.to_string()));
        }
        return response;
    }
    match routed(state, request, now).and_then(|route| done(state, &route)) {
        Ok(response) => response,
        Err(Refusal(status, errors)) => Response::json(status, &json!({ "errors": errors })),
    }
}

fn routed<'a>(state: &State, request: &'a Request, now: Timestamp) -> Result<Route<'a>, Refusal> {
    let listing = request.query.get("list").is_some_and(|v| v == "true");
    let op = match request.method.to_ascii_uppercase().as_str() {
        "LIST" => Op::List,
        "GET" if listing => Op::List,
        "GET" | "HEAD" => Op::Read,
        "POST" | "PUT" => Op::Write,
        "DELETE" => Op::Delete,
        "PATCH" => Op::Patch,
        _ => return refuse(405, "unsupported method"),
    };
    let Some(body) = request.object() else { return refuse(400, "error parsing JSON") };
    let header = request.get("x-vault-namespace").unwrap_or_default();
    let (namespace, path) = state.resolve(header, &request.path);
    let Some(space) = state.spaces.get(&namespace) else { return nothing() };
    let mount = space.mount_of(path).unwrap_or_default().to_owned();
    Ok(Route { request, op, namespace, path, mount, body, now })
}

fn done(state: &mut State, route: &Route<'_>) -> Result<Response, Refusal> {
    let token = if is_login(state, route) || is_unwrap(state, route) { None } else { Some(authorised(state, route)?) };
    let reply = engine_answer(state, route, token.as_ref())?;
    let (status, mut body) = settled(state, route, reply, token.as_ref());
    if let Some(ttl) = route.request.get("x-vault-wrap-ttl").and_then(|ttl| duration(&json!(ttl)))
        && status == 200
        && !ttl.is_zero()
        && !route.path.starts_with("sys/wrapping/unwrap")
    {
        body = state.wrap(route.path, body, ttl, route.now);
    }
    if let Some(token) = token {
        used_up(state, &token);
    }
    Ok(if status == 204 { Response::empty(204) } else { Response::json(status, &body) })
}

fn is_login(state: &State, route: &Route<'_>) -> bool {
    let below = route.path.strip_prefix(&route.mount).unwrap_or_default();
    match state.spaces.get(&route.namespace).and_then(|space| space.mounts.get(&route.mount)).map(|m| &m.engine) {
        Some(Engine::Login(logins)) => logins.is_login(below),
        _ => false,
    }
}

/// A wrapping token may do nothing but be unwrapped; whoever names one needs no token beside it.
fn is_unwrap(state: &State, route: &Route<'_>) -> bool {
    let wrapping = matches!(route.path, "sys/wrapping/unwrap" | "sys/wrapping/lookup");
    let caller = route.request.client_token().unwrap_or_default();
    wrapping && !state.tokens.contains_key(caller)
}

fn authorised(state: &State, route: &Route<'_>) -> Result<Token, Refusal> {
    let Some(id) = route.request.client_token() else { return refuse(403, "permission denied") };
    let Some(token) = state.tokens.get(id) else { return refuse(403, "permission denied") };
    if !route.namespace.starts_with(&token.namespace) {
        return refuse(403, "permission denied");
    }
    // Its answer depends on what the token may see, not on a rule of its own.
    if route.path.starts_with("sys/internal/ui/mounts/") {
        return Ok(token.clone());
    }
    let wanted: &[&str] = match route.op {
        Op::Read => &["read"],
        Op::List => &["list"],
        Op::Write => &["update", "create"],
        Op::Delete => &["delete"],
        Op::Patch => &["patch"],
    };
    check(state, token, &route.namespace, route.path, wanted)?;
    Ok(token.clone())
}

fn engine_answer(state: &mut State, route: &Route<'_>, token: Option<&Token>) -> Answer {
    let below = route.path.strip_prefix(&route.mount).unwrap_or_default();
    match (route.mount.as_str(), token) {
        ("", _) => refuse(404, &format!("no handler for route \"{}\". route entry not found.", route.path)),
        ("sys/", None) => {
            let caller = route.request.client_token().unwrap_or_default();
            state.wrapping_endpoint(route.op, below.trim_start_matches("wrapping/"), &route.body, caller)
        }
        ("sys/", Some(token)) => {
            let (op, namespace) = (route.op, route.namespace.as_str());
            state.sys(&Asking { op, path: below, body: &route.body, namespace, now: route.now }, token)
        }
        ("auth/token/", Some(token)) => {
            state.token_endpoint(route.op, below, &route.body, token, &route.namespace, route.now)
        }
        ("cubbyhole/", Some(token)) => cubbyhole(state, route, below, token),
        (mount, _) => {
            let State { ids, spaces, lag, .. } = state;
            let Some(mount) = spaces.get_mut(&route.namespace).and_then(|s| s.mounts.get_mut(mount)) else {
                return nothing();
            };
            let call = Call {
                op: route.op,
                path: below,
                body: &route.body,
                query: &route.request.query,
                now: route.now,
                ids,
                cert: route.request.client_cert.as_deref(),
                tuning: mount.tuning,
                lag: *lag,
            };
            mount.engine.answer(&call)
        }
    }
}

fn cubbyhole(state: &mut State, route: &Route<'_>, path: &str, token: &Token) -> Answer {
    let mount = state.space(&route.namespace)?.mounts.get_mut("cubbyhole/");
    let Some(Engine::Cubbyhole(all)) = mount.map(|m| &mut m.engine) else { return nothing() };
    let own = format!("{}/{path}", token.id);
    match route.op {
        Op::Read => all.get(&own).map_or_else(nothing, |data| Ok(Reply::Data(json!(data)))),
        Op::Write => {
            all.insert(own, route.body.clone());
            Ok(Reply::Empty)
        }
        Op::Delete => {
            all.remove(&own);
            Ok(Reply::Empty)
        }
        _ => nothing(),
    }
}

/// Registers what a reply grants, and puts it into Vault's envelope.
fn settled(state: &mut State, route: &Route<'_>, reply: Reply, token: Option<&Token>) -> (u16, Value) {
    let mut body = json!({
        "request_id": state.ids.uuid(), "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": null, "wrap_info": null, "warnings": null, "auth": null,
    });
    match reply {
        Reply::Empty => return (204, Value::Null),
        Reply::Data(data) => body["data"] = data,
        Reply::Warned(data, warnings) => {
            body["data"] = data;
            body["warnings"] = json!(warnings);
        }
        Reply::Gone(data) => {
            body["data"] = data;
            return (404, body);
        }
        Reply::Hinted(data, hint) => {
            body["data"] = data;
            body["lease_duration"] = json!(hint.as_secs());
        }
        Reply::Leased(data, terms) => {
            let Some(token) = token else { return (500, body) };
            let lease = state.new_lease(&route.namespace, route.path, token, terms, route.now);
            let space = state.spaces.get_mut(&route.namespace);
            if let Some(mount) = space.and_then(|s| s.mounts.get_mut(&route.mount))
                && let Engine::Database(database) = &mut mount.engine
            {
                database.adopt(&lease.id);
            }
            body["data"] = data;
            body["lease_id"] = json!(lease.id);
            body["renewable"] = json!(lease.terms.renewable);
            body["lease_duration"] = json!(super::values::seconds_until(route.now, lease.ends));
        }
        Reply::Auth(grant) => {
            let (token, warnings) = state.new_token(grant, &route.namespace, route.path, None, route.now);
            body["auth"] = token.auth(route.now);
            if !warnings.is_empty() {
                body["warnings"] = json!(warnings);
            }
        }
        Reply::Raw(status, Value::Object(given)) => {
            for (key, value) in given {
                body[key.as_str()] = value;
            }
            return (status, body);
        }
        Reply::Raw(status, given) => return (status, given),
    }
    (200, body)
}

/// A token with a number of uses has one less; at none it ends.
fn used_up(state: &mut State, token: &Token) {
    if let Some(uses) = state.tokens.get_mut(&token.id).and_then(|t| t.uses.as_mut()) {
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            state.revoke_token(&token.id);
        }
    }
}
