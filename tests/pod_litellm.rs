//! The real LiteLLM under the configs of `examples/kubernetes`: the overlays' own, with a store of type file in place of
//! theirs, in mount, pid and network namespaces of their own. Needs root, unshare, ip, curl and LEASEHOLD_PYTHON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

/// The folder of the real `litellm`; says so where there is none, or no namespace for it.
fn litellm() -> Option<PathBuf> {
    let namespaces = "ip link set lo up && curl --version";
    let made = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", namespaces])
        .output()
        .is_ok_and(|output| output.status.success());
    let python = std::env::var_os("LEASEHOLD_PYTHON").map(PathBuf::from);
    if !made || python.is_none() {
        skip("LiteLLM in a pod's namespaces: root, unshare, ip, curl and LEASEHOLD_PYTHON are needed");
        return None;
    }
    python?.parent().map(Path::to_owned)
}

/// What the parts of the trial have in common. `$AGENT` is the binary, `$WAY` runs LiteLLM and the agent.
const COMMON: &str = r#"
set -eu
mount -t tmpfs memory /run
mkdir -m 2777 /run/litellm /run/litellm-pid /run/leasehold
ip link set lo up
until_ () {
    what=$1; shift; i=0
    until "$@" >/dev/null 2>&1; do
        i=$((i+1)); [ $i -lt 1200 ] || { echo "never: $what" >&2; cat log >&2; exit 1; }
        sleep 0.1
    done
}
ready () { curl -sf http://127.0.0.1:9187/ready; }
healthy () { "$AGENT" status | grep -q 'litellm *healthy'; }
committed () { [ "$("$AGENT" history | grep -c ' committed ')" -ge "$1" ]; }
snapshot () {
    curl -sf -H 'Authorization: Bearer sk-master-1' http://127.0.0.1:4000/model/info |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["model_info"]["snapshot"])'
}
rotate () {
    healthy_before=$(snapshot)
    printf 'master: {key: sk-master-1}\nprovider: {api_key: sk-ant-second-key-0123456789}\n' >next
    chmod 600 next; mv next secrets.yaml
    until_ "the rotation is committed" committed 2
    [ "$(snapshot)" != "$healthy_before" ]
    grep -q sk-ant-second-key /run/litellm/config.yaml
    grep -q "$(snapshot)" /run/litellm/config.yaml
}
"#;

const SIDECAR: &str = r#"
"$AGENT" run >>log 2>&1 &
agent=$!
until_ "the agent is ready before LiteLLM is there" ready
sh -ec "$COMMAND" >>log 2>&1 &
until_ "LiteLLM is healthy" healthy
pid=$(cat /run/litellm-pid/pid)
rotate
[ "$pid" = "$(cat /run/litellm-pid/pid)" ] && kill -0 "$pid"
kill "$agent"
wait "$agent"
"#;

/// Process 1 becomes the agent; what looks on is started before.
const EXEC: &str = r#"
(
    # Also where a step fails: process 1 would run on for ever.
    trap 'kill -TERM 1' EXIT
    until_ "the agent is ready" ready
    until_ "LiteLLM is healthy" healthy
    rotate
    touch rotated
) >>log 2>&1 &
exec "$AGENT" run -- litellm --config=/run/litellm/config.yaml --host=127.0.0.1 --port=4000 --run_gunicorn --num_workers=1 >>log 2>&1
"#;

/// Runs a trial of an overlay in a folder; what came of it.
fn trial(folder: &Path, overlay: &str, script: &str) -> Option<Output> {
    let litellm = litellm()?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes");
    let config = fs::read_to_string(examples.join("overlays").join(overlay).join("agent.yaml")).unwrap();
    let (head, rest) = config.split_once("stores:\n").unwrap();
    let (_, targets) = rest.split_once("targets:\n").unwrap();
    // What the pod has and this has not: 65532 may not read the Python here; and nobody else moves at the same time.
    let targets = targets.replace("uid: 65532", "uid: 0").replace("splay: 10s", "splay: 0s");
    let secrets =
        "secrets: {master: {store: local}, provider: {store: local, overlap: 24h, expect: {api_key: '^sk-ant-'}}}";
    let stores = "stores: {local: {type: file, path: secrets.yaml}}";
    fs::write(folder.join("agent.yaml"), format!("{head}{stores}\n{secrets}\ntargets:\n{targets}")).unwrap();
    fs::copy(examples.join("components/pod/config.yaml.tera"), folder.join("config.yaml.tera")).unwrap();
    let first = "master: {key: sk-master-1}\nprovider: {api_key: sk-ant-first-key-0123456789}\n";
    fs::write(folder.join("secrets.yaml"), first).unwrap();
    fs::set_permissions(folder.join("secrets.yaml"), fs::Permissions::from_mode(0o600)).unwrap();

    let deployment: serde_json::Value =
        serde_yaml::from_str(&fs::read_to_string(examples.join("bases/sidecar/deployment.yaml")).unwrap()).unwrap();
    let command = &deployment["spec"]["template"]["spec"]["containers"][0]["command"][2];
    let path = std::env::var("PATH").unwrap_or_default();
    // More than both waits of a trial, each 1200 steps of 0.1 s, take on a machine that is busy.
    let output = Command::new("timeout")
        .args(["--kill-after=10", "600"])
        .args(["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"])
        .arg(format!("{COMMON}{script}"))
        .current_dir(folder)
        .env("AGENT", env!("CARGO_BIN_EXE_agent"))
        .env("AGENT_CONFIG", folder.join("agent.yaml"))
        .env("COMMAND", command.as_str().unwrap())
        .env("PATH", format!("{}:{path}", litellm.display()))
        .env("HOME", folder)
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env_remove("NOTIFY_SOCKET")
        .output();
    Some(output.unwrap())
}

#[test]
fn the_sidecars_config_brings_a_new_key_into_the_real_litellm() {
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = trial(folder.path(), "sidecar-vault", SIDECAR) else { return };
    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}\n{log}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_entrys_config_brings_a_new_key_into_the_real_litellm() {
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = trial(folder.path(), "exec-vault", EXEC) else { return };
    let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    // gunicorn ends with 0 at TERM.
    assert!(output.status.success(), "{}\n{}\n{log}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("rotated").exists(), "{log}");
}
