//! What an overlay is put together from, by the few features of kustomize that the examples use: no kustomize is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::{containers, folders, list, root, yaml};

/// An overlay's manifests, its patches applied, and the ConfigMaps that it makes.
#[derive(Default)]
struct Assembly {
    manifests: Vec<Value>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Assembly {
    fn of(overlay: &Path) -> Assembly {
        let mut made = Assembly::default();
        made.add(overlay, "Kustomization");
        made
    }

    /// Adds a folder; panics at what is not there, and at what this does not know.
    fn add(&mut self, folder: &Path, kind: &str) {
        let at = folder.display();
        let kustomization = yaml(&folder.join("kustomization.yaml"));
        assert_eq!(kustomization["kind"], kind, "{at}");
        for key in kustomization.as_object().unwrap().keys() {
            let known = ["apiVersion", "kind", "resources", "components", "configMapGenerator", "patches", "labels"];
            assert!(known.contains(&key.as_str()), "{at}: {key}");
        }
        for resource in list(&kustomization, "resources") {
            let path = folder.join(resource.as_str().unwrap());
            match path.is_dir() {
                true => self.add(&path, "Kustomization"),
                false => self.manifests.push(yaml(&path)),
            }
        }
        for component in list(&kustomization, "components") {
            self.add(&folder.join(component.as_str().unwrap()), "Component");
        }
        for generator in list(&kustomization, "configMapGenerator") {
            self.generate(folder, generator);
        }
        for patch in list(&kustomization, "patches") {
            self.patch(&yaml(&folder.join(patch["path"].as_str().unwrap())));
        }
    }

    fn generate(&mut self, folder: &Path, generator: &Value) {
        let name = generator["name"].as_str().unwrap();
        let merges = generator["behavior"] == "merge";
        assert_eq!(self.maps.contains_key(name), merges, "{}: {name}: {generator}", folder.display());
        let map = self.maps.entry(name.to_owned()).or_default();
        for file in list(generator, "files") {
            let file = file.as_str().unwrap();
            map.insert(file.to_owned(), std::fs::read_to_string(folder.join(file)).unwrap());
        }
        for literal in list(generator, "literals") {
            let (key, value) = literal.as_str().unwrap().split_once('=').unwrap();
            map.insert(key.to_owned(), value.to_owned());
        }
    }

    /// A patch may give a volume of the Deployment another source, and do nothing else.
    fn patch(&mut self, patch: &Value) {
        let mut rest = patch.clone();
        let volumes = rest["spec"]["template"]["spec"]["volumes"].take();
        assert_eq!(rest["spec"], json!({"template": {"spec": {"volumes": null}}}), "{patch}");
        let (kind, name) = (&patch["kind"], &patch["metadata"]["name"]);
        let patched = self.manifests.iter_mut().find(|m| m["kind"] == *kind && m["metadata"]["name"] == *name);
        let there = patched.expect("what is patched is there")["spec"]["template"]["spec"]["volumes"].as_array_mut();
        let there = there.unwrap();
        for volume in volumes.as_array().unwrap() {
            let old = there.iter_mut().find(|old| old["name"] == volume["name"]);
            *old.unwrap_or_else(|| panic!("no volume {}", volume["name"])) = volume.clone();
        }
    }

    fn all(&self, kind: &str) -> Vec<&Value> {
        self.manifests.iter().filter(|manifest| manifest["kind"] == kind).collect()
    }

    fn one(&self, kind: &str) -> &Value {
        let found = self.all(kind);
        assert_eq!(found.len(), 1, "{kind}");
        found[0]
    }

    fn pod(&self) -> &Value {
        &self.one("Deployment")["spec"]["template"]["spec"]
    }
}

/// Every overlay: its name, its way, its store, and what it is made of.
fn overlays() -> Vec<(String, String, String, Assembly)> {
    let made = folders("overlays").into_iter().map(|folder| {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let (way, store) = name.rsplit_once('-').unwrap();
        (name.clone(), way.to_owned(), store.to_owned(), Assembly::of(&folder))
    });
    made.collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    containers(pod).into_iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// The agent's container.
fn agents<'a>(pod: &'a Value, way: &str) -> &'a Value {
    container(pod, if way == "exec" { "litellm" } else { "agent" })
}

fn mounts(container: &Value, volume: &str) -> Option<String> {
    let found = list(container, "volumeMounts").into_iter().find(|mount| mount["name"] == volume)?;
    Some(found["mountPath"].as_str().unwrap().to_owned())
}

#[test]
fn every_name_of_an_overlay_is_that_of_something_in_it() {
    for (name, way, _, made) in overlays() {
        let pod = made.pod();
        let volumes = list(pod, "volumes").into_iter().filter_map(|volume| volume["configMap"]["name"].as_str());
        let sources = containers(pod).into_iter().flat_map(|container| list(container, "envFrom"));
        let sources = sources.map(|source| source["configMapRef"]["name"].as_str().unwrap());
        let named: BTreeSet<&str> = volumes.chain(sources).collect();
        assert_eq!(named, made.maps.keys().map(String::as_str).collect(), "{name}: ConfigMaps");

        // The agent looks for its config where it is mounted.
        assert!(made.maps["litellm-agent"].contains_key("agent.yaml"), "{name}");
        assert!(made.maps["litellm-agent"].contains_key("config.yaml.tera"), "{name}");
        assert_eq!(mounts(agents(pod, &way), "agent-config").as_deref(), Some("/etc/leasehold"), "{name}");
        for image in ["examples/container/Containerfile", "examples/container/litellm/Containerfile"] {
            let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(image)).unwrap();
            assert!(text.contains("AGENT_CONFIG=/etc/leasehold/agent.yaml"), "{image}");
        }

        let deployment = made.one("Deployment");
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels, "{name}");
        let service = &made.one("Service")["spec"];
        assert_eq!(&service["selector"], labels, "{name}");
        let ports: Vec<&Value> = containers(pod).into_iter().flat_map(|container| list(container, "ports")).collect();
        assert!(ports.iter().any(|port| port["name"] == service["ports"][0]["targetPort"]), "{name}");
        for policy in made.all("NetworkPolicy") {
            assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels, "{name}");
        }
    }
}

#[test]
fn the_stores_token_and_settings_are_the_agents_alone_and_what_the_store_asks_for() {
    for (name, way, store, made) in overlays() {
        let pod = made.pod();
        let volume = list(pod, "volumes").into_iter().find(|volume| volume["name"] == "store-token").unwrap();
        let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
        for container in containers(pod) {
            let is_agents = container == agents(pod, &way);
            assert_eq!(mounts(container, "store-token").is_some(), is_agents, "{name}: {}", container["name"]);
            assert_eq!(!list(container, "envFrom").is_empty(), is_agents, "{name}: {}", container["name"]);
        }
        let folder = mounts(agents(pod, &way), "store-token").unwrap();
        let path = format!("{folder}/{}", token["path"].as_str().unwrap());
        let settings = &made.maps["litellm-store"];
        let config: Value = serde_yaml::from_str(&made.maps["litellm-agent"]["agent.yaml"]).unwrap();
        let component = std::fs::read_to_string(root().join(format!("components/{store}/kustomization.yaml"))).unwrap();
        let account = made.one("ServiceAccount")["metadata"]["name"].as_str().unwrap();
        assert_eq!(pod["serviceAccountName"], account, "{name}");
        if store == "vault" {
            assert_eq!(token["audience"], "vault", "{name}");
            assert_eq!(config["stores"]["vault"]["auth"]["token_file"], path, "{name}");
            assert_eq!(settings.keys().collect::<Vec<_>>(), ["VAULT_ADDR"], "{name}");
            assert!(config["stores"]["vault"]["address"].as_str().unwrap().contains(&settings["VAULT_ADDR"]), "{name}");
            // The role that the comment has made is the one that logs in.
            for said in [&format!("bound_service_account_names={account}"), "audience=vault", "role/litellm"] {
                assert!(component.contains(said), "{name}: {said}");
            }
            assert_eq!(config["stores"]["vault"]["auth"]["role"], "litellm", "{name}");
        } else {
            assert_eq!(token["audience"], "sts.amazonaws.com", "{name}");
            assert_eq!(settings["AWS_WEB_IDENTITY_TOKEN_FILE"], path, "{name}");
            assert!(settings["AWS_ROLE_ARN"].starts_with("arn:aws:iam::"), "{name}");
            assert!(!settings["AWS_REGION"].is_empty() && !settings["AWS_ROLE_SESSION_NAME"].is_empty(), "{name}");
            // Else a token that is refused falls through to the node's role.
            assert_eq!(settings["AWS_EC2_METADATA_DISABLED"], "true", "{name}");
            assert!(component.contains(&format!(":{account} and aud sts.amazonaws.com")), "{name}");
        }
        // With this annotation EKS's webhook would give every container what is written out here for the agent's.
        assert!(made.one("ServiceAccount")["metadata"]["annotations"].is_null(), "{name}");
    }
}

/// What a policy lets through: direction, peers, ports. Panics at a rule that is open to all.
fn let_through(policies: &[&Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for policy in policies {
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in list(&policy["spec"], direction) {
                let (peers, ports) = (list(rule, peers), list(rule, "ports"));
                assert!(!peers.is_empty() && !ports.is_empty(), "open to all: {rule}");
                for peer in peers {
                    let who = peer.as_object().unwrap().iter().map(|(key, value)| match key.as_str() {
                        "ipBlock" => value["cidr"].as_str().unwrap().to_owned(),
                        _ => value["matchLabels"].as_object().unwrap().values().next().unwrap().to_string(),
                    });
                    let who = who.collect::<Vec<_>>().join("/");
                    for port in &ports {
                        found.insert(format!(
                            "{direction} {who} {}/{}",
                            port["protocol"].as_str().unwrap(),
                            port["port"]
                        ));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn nothing_reaches_the_pod_nor_does_the_pod_reach_anything_but_what_is_listed() {
    for (name, _, store, made) in overlays() {
        let policies = made.all("NetworkPolicy");
        // Both directions are closed but for the rules.
        assert!(policies.iter().any(|p| p["spec"]["policyTypes"] == json!(["Ingress", "Egress"])), "{name}");
        let mut expected = BTreeSet::from([
            "ingress \"true\" TCP/4000",
            "ingress \"monitoring\"/\"prometheus\" TCP/9187",
            "egress \"kube-system\"/\"kube-dns\" UDP/53",
            "egress \"kube-system\"/\"kube-dns\" TCP/53",
            "egress 0.0.0.0/0 TCP/443",
        ]);
        if store == "vault" {
            assert!(made.maps["litellm-store"]["VAULT_ADDR"].ends_with(":8200"));
            expected.insert("egress \"vault\"/\"vault\" TCP/8200");
        }
        assert_eq!(let_through(&policies), expected.into_iter().map(str::to_owned).collect(), "{name}");
        let metadata = policies.iter().flat_map(|policy| list(&policy["spec"], "egress"));
        let blocks = metadata.flat_map(|rule| list(rule, "to")).filter(|peer| !peer["ipBlock"].is_null());
        for block in blocks {
            let closed = list(&block["ipBlock"], "except");
            for range in ["169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
                assert!(closed.contains(&&json!(range)), "{name}: {range}");
            }
        }
    }
}

#[test]
fn every_probe_asks_a_port_of_its_own_container_and_the_pod_has_time_to_end() {
    for (name, way, _, made) in overlays() {
        let pod = made.pod();
        let asks = |container: &Value| {
            let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| {
                let asked = &container[probe]["httpGet"];
                let ports = list(container, "ports");
                assert!(asked.is_null() || ports.iter().any(|port| port["name"] == asked["port"]), "{name}: {asked}");
                format!("{} {}", asked["port"].as_str().unwrap_or("-"), asked["path"].as_str().unwrap_or("-"))
            });
            probes.to_vec()
        };
        let (lives, ready) = ("http /health/liveliness", "http /health/readiness");
        let litellm = asks(container(pod, "litellm"));
        match way.as_str() {
            // Live is the agent: it starts LiteLLM anew by itself.
            "exec" => assert_eq!(litellm, ["admin /ready", ready, "admin /live"], "{name}"),
            _ => assert_eq!(litellm, [lives, ready, lives], "{name}"),
        }
        if way == "init-container" {
            let agent = container(pod, "agent");
            assert_eq!(asks(agent), ["- -"; 3], "{name}");
            assert_eq!(agent["args"], json!(["render", "--once", "--wait", "60s"]), "{name}");
            assert!(agent["restartPolicy"].is_null() && list(agent, "ports").is_empty(), "{name}");
        }
        // gunicorn lets its workers end their requests for 30 s (graceful_timeout), and then needs a moment.
        let grace = pod["terminationGracePeriodSeconds"].as_u64();
        assert!(grace.is_some_and(|seconds| seconds >= 45), "{name}: {grace:?}");
    }
}

#[test]
fn what_runs_in_the_entrys_pod_is_what_check_sees() {
    for (name, way, _, made) in overlays() {
        let config: Value = serde_yaml::from_str(&made.maps["litellm-agent"]["agent.yaml"]).unwrap();
        let target = &config["targets"]["litellm"];
        let command = list(container(made.pod(), "litellm"), "command");
        match way.as_str() {
            "exec" => {
                let after = command.iter().position(|word| *word == "--").unwrap() + 1;
                assert_eq!(command[after..], list(&target["reload"], "command")[..], "{name}");
                // LiteLLM is in that image: a config that it refuses never gets to the running one.
                let check = &target["files"][0]["check"];
                assert_eq!(check["run"], json!(["litellm", "--config", "{path}", "--validate_config"]), "{name}");
                assert_eq!(check["stdout"], "config OK", "{name}");
            }
            _ => assert!(target["reload"]["command"].is_null(), "{name}"),
        }
    }
}
