//! The way to AWS through a proxy: `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, as other AWS tools read them. What
//! is asked without TLS (the metadata services) never goes through it, nor what is on this machine or its link.

use aws_smithy_http_client::proxy::ProxyConfig;

/// Never behind a proxy, whatever `NO_PROXY` says: loopback, and where EC2, ECS and EKS give credentials.
const NEAR: &str = "localhost,127.0.0.0/8,::1,169.254.0.0/16,fd00:ec2::/32";

/// The proxy that the environment names. `Err` tells what is wrong with it, without what may be a password.
pub(super) fn of(env: impl Fn(&str) -> Option<String>) -> Result<Option<ProxyConfig>, String> {
    let first = |names: [&str; 2]| names.into_iter().filter_map(&env).find(|value| !value.trim().is_empty());
    let Some(proxy) = first(["HTTPS_PROXY", "https_proxy"]) else { return Ok(None) };
    let proxy = proxy.trim();
    let proxy = if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
    let near = match first(["NO_PROXY", "no_proxy"]) {
        Some(others) => format!("{others},{NEAR}"),
        None => NEAR.to_owned(),
    };
    match ProxyConfig::https(proxy) {
        Ok(config) => Ok(Some(config.no_proxy(near))),
        Err(_) => {
            Err("HTTPS_PROXY is no URL of an HTTP proxy (http://HOST:PORT): AWS is asked directly; mend it".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_these(set: &[(&str, &str)]) -> Result<Option<String>, String> {
        let found = of(|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()));
        found.map(|config| config.map(|config| format!("{config:?}")))
    }

    #[test]
    fn it_is_read_in_either_case_and_without_a_scheme() {
        for (name, value) in [
            ("HTTPS_PROXY", "http://proxy.corp:3128"),
            ("https_proxy", "proxy.corp:3128"),
            ("HTTPS_PROXY", " proxy.corp:3128"),
        ] {
            let found = of_these(&[(name, value), ("no_proxy", "inner.corp")]).expect("sound").expect("a proxy");
            assert!(found.contains("Https") && found.contains("http://proxy.corp:3128"), "{found}");
            assert!(found.contains("inner.corp,localhost") && found.contains("169.254.0.0/16"), "{found}");
        }
        assert_eq!(of_these(&[]), Ok(None));
        assert_eq!(of_these(&[("HTTPS_PROXY", ""), ("HTTP_PROXY", "http://proxy.corp:3128")]), Ok(None));
    }

    #[test]
    fn what_is_no_http_proxy_is_told_without_its_password() {
        let told = of_these(&[("HTTPS_PROXY", "socks5://user:hunter2@proxy.corp:1080")]).expect_err("not that");
        assert!(told.contains("HTTPS_PROXY") && !told.contains("hunter2"), "{told}");
    }
}
