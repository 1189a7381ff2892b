//! Configs that are refused, with the value of a variable in the wrong place.

use serde_json::{Value, json};

/// Variations of a sound config: each is faulty.
pub fn configs(sound: &str) -> Vec<String> {
    let sound: Value = serde_json::from_str(sound).unwrap();
    let mut out = Vec::new();
    // Small, so that each is quick to read.
    let mut small = sound.clone();
    let app = sound["targets"]["app"].clone();
    small["targets"] = json!({"app": app});
    let places = [
        "/state_dir/x",
        "/admin/listen",
        "/audit/path/x",
        "/stores/local/type",
        "/stores/local/path/x",
        "/stores/vault/address",
        "/stores/vault/auth/type",
        "/stores/vault/auth/token",
        "/secrets/main/store",
        "/secrets/main/key/x",
        "/secrets/main/overlap",
        "/secrets/main/max_age",
        "/secrets/main/poll",
        "/secrets/vaulted/path",
        "/secrets/main/verify/http/url",
        "/secrets/main/verify/http/status",
        "/secrets/main/verify/http/timeout",
        "/secrets/main/expect",
        "/targets/app/files/0/mode",
        "/targets/app/files/0/owner",
        "/targets/app/files/0/group",
        "/targets/app/files/0/format",
        "/targets/app/files/0/inline",
        "/targets/app/files/0/template",
        "/targets/app/files/0/check",
        "/targets/app/files/0/check/run",
        "/targets/app/files/0/structure",
        "/targets/app/reload",
        "/targets/app/reload/type",
        "/targets/app/reload/on_change",
        "/targets/app/reload/stop_timeout",
        "/targets/app/reload/user",
        "/targets/app/health/url",
        "/targets/app/health/status",
        "/targets/app/health/within",
        "/targets/app/health/method",
        "/targets/app/health/type",
        "/targets/app/health/json",
        "/targets/app/on_unhealthy",
        "/targets/app/settle",
        "/targets/app/splay",
        "/targets/app/keep",
        "/targets/app/pass_env",
        "/targets/app/pass_env/0",
    ];
    for place in places {
        for value in ["${CANARY_INLINE}", "x\n${CANARY_INLINE} {{ y"] {
            let mut config = small.clone();
            let (parent, key) = place.rsplit_once('/').unwrap();
            match config.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.insert(key.to_owned(), json!(value))),
                Some(Value::Array(list)) => list[key.parse::<usize>().unwrap()] = json!(value),
                _ => continue,
            }
            out.push(config);
        }
    }
    // A path is shown, whatever it is made of: only so can it be mended.
    for (template, source) in [
        ("{{ secrets.${CANARY_INLINE}.x }}", "inline"),
        ("{{ ${CANARY_INLINE} }}", "inline"),
        ("{{ '${CANARY_INLINE}' | nofilter }}", "inline"),
        ("{{ '${CANARY_INLINE} }}", "inline"),
        ("{% include '${CANARY_INLINE}' %}", "inline"),
        ("{% if '${CANARY_INLINE}' %}", "inline"),
        ("{{ throw(message='${CANARY_INLINE}') }}", "inline"),
        ("{{ env['${CANARY_INLINE}'] }}", "inline"),
        ("{{ secrets.main['${CANARY_INLINE}'] }}", "inline"),
    ] {
        let mut config = small.clone();
        config["targets"]["app"]["files"][1] = json!({"path": "out/app.env", source: template});
        out.push(config);
    }
    let mut twice = small.clone();
    twice["targets"]["app"]["files"][0]["path"] = json!("${CANARY_INLINE}");
    twice["targets"]["app"]["files"][1]["path"] = json!("${CANARY_INLINE}");
    out.push(twice);
    let mut out: Vec<String> = out.iter().map(Value::to_string).collect();
    let text = small.to_string();
    out.push(text.replacen("{\"", "{\"${CANARY_INLINE}\": 1, \"", 1));
    out.push(text.replacen("{\"", "{\"a\": ${CANARY_INLINE}, \"", 1));
    out.push(text[..text.len() / 2].to_owned());
    out
}
