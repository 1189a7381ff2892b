//! The plainest client there is: what a test sends, a server gets.

use std::sync::Once;

use super::wire::{Request, Response};

/// Sends a request to `http://…`. Follows no redirect, retries nothing.
pub async fn send(address: &str, request: Request) -> Response {
    try_send(address, request).await.unwrap()
}

/// The same, where it may fail.
pub async fn try_send(address: &str, request: Request) -> Result<Response, reqwest::Error> {
    through(client().build()?, address, request).await
}

/// What a client is made of here; a test adds its CA, its certificate or its unix socket.
pub fn client() -> reqwest::ClientBuilder {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy()
}

/// Sends a request through a client of the test's own.
pub async fn through(client: reqwest::Client, address: &str, request: Request) -> Result<Response, reqwest::Error> {
    let mut url = reqwest::Url::parse(&format!("{address}/v1/")).unwrap();
    url.set_path(&format!("/v1/{}", request.path));
    if !request.query.is_empty() {
        let query: Vec<_> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        url.set_query(Some(&query.join("&")));
    }
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).unwrap();
    let mut sending = client.request(method, url).header("X-Vault-Request", "true");
    for (name, value) in &request.headers {
        sending = sending.header(name, value);
    }
    let got = sending.body(request.body).send().await?;
    let status = got.status().as_u16();
    let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = got.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let body = got.bytes().await?.to_vec();
    Ok(Response { status, headers, body, ..Response::default() })
}
