//! `examples/kubernetes/`: what `kubectl apply` would be given is hardened, valid, and holds configs that the agent accepts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod assembly;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// The oldest release with native sidecars on by default, and one of now.
const RELEASES: [&str; 2] = ["1.29", "1.34"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes")
}

fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: {why}");
}

fn folders(kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(root().join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    value[key].as_array().into_iter().flatten().collect()
}

/// The manifests that the kustomizations name as resources: whole ones, where the patches are parts.
fn manifests() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders("bases").into_iter().chain(folders("components")).chain(folders("overlays")) {
        let kustomization = yaml(&folder.join("kustomization.yaml"));
        for resource in list(&kustomization, "resources") {
            let path = folder.join(resource.as_str().unwrap());
            assert!(path.exists(), "{} is not there", path.display());
            if path.is_file() {
                found.push(path);
            }
        }
    }
    assert!(found.len() >= 7, "{found:?}");
    found
}

fn deployments() -> Vec<(String, Value)> {
    let all = manifests().into_iter().map(|path| (path.display().to_string(), yaml(&path)));
    let found: Vec<(String, Value)> = all.filter(|(_, manifest)| manifest["kind"] == "Deployment").collect();
    assert_eq!(found.len(), 3, "init-container, sidecar, exec");
    found
}

fn containers(pod: &Value) -> Vec<&Value> {
    list(pod, "initContainers").into_iter().chain(list(pod, "containers")).collect()
}

/// What is not as hard as it should be in a deployment's pod.
fn soft(deployment: &Value) -> Vec<String> {
    let pod = &deployment["spec"]["template"]["spec"];
    let mut faults = Vec::new();
    let mut must = |what: String, holds: bool| {
        if !holds {
            faults.push(what);
        }
    };
    let of_pod = &pod["securityContext"];
    must("the pod's runAsNonRoot".into(), of_pod["runAsNonRoot"] == true);
    must("the pod's runAsUser".into(), of_pod["runAsUser"].as_u64().is_some_and(|uid| uid > 0));
    must("the pod's fsGroup".into(), of_pod["fsGroup"] == of_pod["runAsUser"]);
    must("the pod's seccompProfile".into(), of_pod["seccompProfile"]["type"] == "RuntimeDefault");
    must("automountServiceAccountToken".into(), pod["automountServiceAccountToken"] == false);
    must("serviceAccountName".into(), pod["serviceAccountName"].is_string());
    for host in ["hostPID", "hostNetwork", "hostIPC"] {
        must(host.into(), pod[host].is_null());
    }
    let volumes = list(pod, "volumes");
    for container in containers(pod) {
        let name = container["name"].as_str().unwrap_or("a container");
        let context = &container["securityContext"];
        let mut of = |what: &str, holds: bool| must(format!("{name}: {what}"), holds);
        of("runAsNonRoot", context["runAsNonRoot"] == true);
        of("runAsUser", context["runAsUser"].is_null());
        of("allowPrivilegeEscalation", context["allowPrivilegeEscalation"] == false);
        of("readOnlyRootFilesystem", context["readOnlyRootFilesystem"] == true);
        of("capabilities", context["capabilities"] == json!({"drop": ["ALL"]}));
        of("seccompProfile", context["seccompProfile"]["type"] == "RuntimeDefault");
        of("privileged", context["privileged"].is_null());
        of("a limit of memory", container["resources"]["limits"]["memory"].is_string());
        of("requests", container["resources"]["requests"]["cpu"].is_string());
        for mount in list(container, "volumeMounts") {
            of(
                "a subPath, in which a rename is not seen",
                mount["subPath"].is_null() && mount["subPathExpr"].is_null(),
            );
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let Some(volume) = volume else {
                of(&format!("the volume {}", mount["name"]), false);
                continue;
            };
            // What may be written is memory, LiteLLM's scratch apart; all else is read-only.
            let memory = volume["emptyDir"]["medium"] == "Memory" && volume["emptyDir"]["sizeLimit"].is_string();
            of(&format!("the mount {}", mount["name"]), memory || mount["readOnly"] == true || mount["name"] == "tmp");
        }
    }
    for volume in volumes {
        must(format!("{}: a volume of the node", volume["name"]), volume["hostPath"].is_null());
        for source in list(&volume["projected"], "sources") {
            let audience = source["serviceAccountToken"]["audience"].as_str();
            must("the token's audience".into(), audience.is_some_and(|audience| !audience.is_empty()));
        }
    }
    faults
}

#[test]
fn every_container_is_hardened() {
    for (path, deployment) in deployments() {
        assert_eq!(soft(&deployment), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_container_that_is_less_hardened_is_noticed() {
    let (_, sound) = deployments().pop().unwrap();
    let broken: [fn(&mut Value); 8] = [
        |pod| pod["securityContext"]["runAsUser"] = json!(0),
        |pod| pod["automountServiceAccountToken"] = json!(true),
        |pod| pod["initContainers"][0]["securityContext"]["readOnlyRootFilesystem"] = json!(false),
        |pod| pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = Value::Null,
        |pod| pod["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["KILL"]),
        |pod| pod["containers"][0]["securityContext"]["seccompProfile"] = Value::Null,
        |pod| pod["containers"][0]["volumeMounts"][0]["subPath"] = json!("config.yaml"),
        |pod| pod["volumes"][2]["emptyDir"] = json!({}),
    ];
    for (index, break_it) in broken.iter().enumerate() {
        let mut deployment = sound.clone();
        break_it(&mut deployment["spec"]["template"]["spec"]);
        assert!(!soft(&deployment).is_empty(), "number {index}");
    }
}

#[test]
fn the_sidecar_is_a_native_one_whose_probes_ask_the_agent() {
    let sidecar = yaml(&root().join("bases/sidecar/deployment.yaml"));
    let pod = &sidecar["spec"]["template"]["spec"];
    assert_eq!(pod["shareProcessNamespace"], true);
    let agent = &pod["initContainers"][0];
    assert_eq!((&agent["name"], &agent["restartPolicy"]), (&json!("agent"), &json!("Always")));
    for (probe, path) in [("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")] {
        assert_eq!(agent[probe]["httpGet"], json!({"path": path, "port": "admin"}), "{probe}");
    }
    assert_eq!(list(agent, "ports"), [&json!({"name": "admin", "containerPort": 9187})]);
    for store in ["vault", "aws"] {
        let config = yaml(&root().join(format!("overlays/sidecar-{store}/agent.yaml")));
        assert_eq!(config["admin"], json!({"listen": "0.0.0.0:9187", "exposed": true}));
        // The pidfile is on a volume that both mount, and which the agent cannot write.
        let reload = &config["targets"]["litellm"]["reload"];
        assert_eq!(reload["pidfile"], "/run/litellm-pid/pid");
        assert_eq!(reload["expect"]["uid"], pod["securityContext"]["runAsUser"]);
    }
    let command = pod["containers"][0]["command"][2].as_str().unwrap();
    assert!(command.contains(">/run/litellm-pid/pid.next") && command.contains("--run_gunicorn"), "{command}");
}

/// `agent check --offline` of a config beside the template that the pod's ConfigMap has; what it says where it refuses or warns.
/// That LiteLLM and the pod's folders are not on this machine is no matter.
fn refused(config: &str, template: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("agent.yaml"), config).unwrap();
    fs::write(folder.path().join("config.yaml.tera"), template).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["check", "--offline", "--config"])
        .arg(folder.path().join("agent.yaml"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let elsewhere = ["`litellm` cannot be started: no such program", "the folder /run/litellm-pid is not there"];
    let mut warnings = said.lines().filter(|line| line.starts_with("warning: "));
    let warned = warnings.any(|line| !elsewhere.iter().any(|known| line.contains(known)));
    (!output.status.success() || warned).then_some(said)
}

#[test]
fn every_overlays_config_passes_check_without_a_warning() {
    let template = fs::read_to_string(root().join("components/pod/config.yaml.tera")).unwrap();
    let overlays = folders("overlays");
    assert_eq!(overlays.len(), 6, "three ways and two stores");
    for overlay in overlays {
        let config = fs::read_to_string(overlay.join("agent.yaml")).unwrap();
        assert_eq!(refused(&config, &template), None, "{}", overlay.display());
        assert!(refused(&config.replace("\ntargets:\n", "\ntarget:\n"), &template).is_some());
        let warned = refused(&config.replace("--run_gunicorn", "--debug"), &template);
        assert_eq!(warned.is_some(), config.contains("--run_gunicorn"), "{}: {warned:?}", overlay.display());
    }
}

#[test]
fn the_store_is_all_that_two_overlays_of_a_base_differ_in() {
    for way in ["init-container", "sidecar", "exec"] {
        let config = |store: &str| yaml(&root().join(format!("overlays/{way}-{store}/agent.yaml")));
        let (vault, aws) = (config("vault"), config("aws"));
        for key in ["targets", "state_dir", "admin"] {
            assert_eq!(vault[key], aws[key], "{way}: {key}");
        }
    }
}

/// `kustomize build` of an overlay. None: there is no kustomize here.
fn kustomized(overlay: &Path) -> Option<String> {
    for program in [&["kustomize", "build"], &["kubectl", "kustomize"]] {
        let Ok(output) = Command::new(program[0]).arg(program[1]).arg(overlay).output() else { continue };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", overlay.display());
        return Some(String::from_utf8(output.stdout).unwrap());
    }
    None
}

#[test]
fn what_kustomize_makes_of_an_overlay_is_whole() {
    let template = fs::read_to_string(root().join("components/pod/config.yaml.tera")).unwrap();
    for overlay in folders("overlays") {
        let Some(made) = kustomized(&overlay) else {
            return eprintln!(
                "NOTE: no kustomize and no kubectl: the overlays of examples/kubernetes were put together by the tests alone"
            );
        };
        let made: Vec<Value> = made.split("\n---\n").map(|text| serde_yaml::from_str(text).unwrap()).collect();
        let of = |kind: &str| made.iter().filter(|m| m["kind"] == kind).collect::<Vec<_>>();
        let deployment = of("Deployment")[0];
        assert_eq!(soft(deployment), Vec::<String>::new(), "{}", overlay.display());
        let config = of("ConfigMap").into_iter().find(|map| map["data"]["agent.yaml"].is_string()).unwrap();
        assert_eq!(config["data"]["config.yaml.tera"], template.as_str());
        assert_eq!(refused(config["data"]["agent.yaml"].as_str().unwrap(), &template), None, "{}", overlay.display());
        // Every name that the pod mounts or reads is that of a ConfigMap that is made, digest and all.
        let text = deployment.to_string();
        for map in of("ConfigMap") {
            assert!(text.contains(map["metadata"]["name"].as_str().unwrap()), "{}: {map}", overlay.display());
        }
        let audience = if overlay.to_string_lossy().ends_with("-aws") { "sts.amazonaws.com" } else { "vault" };
        assert!(text.contains(&format!("\"audience\":\"{audience}\"")), "{}", overlay.display());
        assert!(!of("NetworkPolicy").is_empty() && of("ServiceAccount").len() == 1);
    }
}

/// PyPI's kubernetes-validate over these files; what it says where one is refused.
fn invalid(files: &[PathBuf], release: &str) -> Option<String> {
    let python = PathBuf::from(std::env::var_os("LEASEHOLD_PYTHON")?);
    let output = Command::new(python.with_file_name("kubernetes-validate"))
        .args(["--strict", "--kubernetes-version", release])
        .args(files)
        .output()
        .expect("scripts/requirements.txt has kubernetes-validate");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| said.into_owned())
}

#[test]
fn the_manifests_are_what_kubernetes_schemas_say() {
    if std::env::var_os("LEASEHOLD_PYTHON").is_none() {
        return skip("Kubernetes schemas: LEASEHOLD_PYTHON is not set (scripts/venv makes one)");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut files = manifests();
    for overlay in folders("overlays") {
        if let Some(made) = kustomized(&overlay) {
            let file = folder.path().join(overlay.file_name().unwrap()).with_extension("yaml");
            fs::write(&file, made).unwrap();
            files.push(file);
        }
    }
    for release in RELEASES {
        assert_eq!(invalid(&files, release), None, "{release}");
    }
    // It can tell a bad one.
    let text = fs::read_to_string(root().join("bases/sidecar/deployment.yaml")).unwrap();
    for (right, wrong) in
        [("readOnlyRootFilesystem:", "readOnlyRootFileSystem:"), ("periodSeconds: 1\n", "periodSeconds: 1s\n")]
    {
        assert!(text.contains(right));
        let file = folder.path().join("wrong.yaml");
        fs::write(&file, text.replace(right, wrong)).unwrap();
        assert!(invalid(&[file], RELEASES[0]).is_some(), "{wrong}");
    }
}
