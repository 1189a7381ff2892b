//! One file of Vault's and AWS's secrets, in one rotation.

use serde_json::json;

use crate::aws::moto::{moto, unique};
use crate::aws::world::{Setup, World};
use crate::vault::fake::{Fake, ROOT};
use crate::vault::server::{FakeServer, VaultServer};

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn vault_and_aws_change_in_one_rotation_and_go_back_in_one() {
    let Some(moto) = moto() else { return };
    let server = FakeServer::new(Fake::new());
    let vault: &dyn VaultServer = &server;
    let kv = wait(vault.kv(2));
    let name = unique("both");
    let put = |n: u32| {
        wait(vault.put(&kv, "app", json!({"password": format!("vault-{n}")})));
        moto.put(&name, &json!({"key": format!("aws-{n}")}).to_string());
    };
    moto.create(&name, r#"{"key": "aws-0"}"#);
    put(1);
    let secrets = json!({
        "app": {"store": "aws", "id": name, "poll": "1s"},
        "db": {"store": "vault", "path": format!("{kv}/app"), "poll": "1s"},
    });
    let mut setup = Setup::new(secrets, "{{ secrets.app.key }}\n{{ secrets.db.password }}\n");
    // Both are polled within it.
    setup.target = json!({"settle": {"min": "5s", "max": "60s"}, "health": {"within": "3s"}});
    setup.rest = json!({"stores": {"vault": {
        "type": "vault", "address": vault.address(), "auth": {"type": "token-file", "path": "token"},
    }}});
    let mut world = World::new(&moto.address(), &setup);
    world.put("token", ROOT);
    world.agent.start();
    world.serves(&["aws-1", "vault-1"]);
    put(2);
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.serves(&["aws-2", "vault-2"]);
    let changed = world.agent.history()[1]["changed"].clone();
    assert_eq!(changed.as_object().unwrap().keys().collect::<Vec<_>>(), ["app", "db"], "one rotation of both");
    // From now on only what is served now is healthy.
    world.put("accept", "vault-2\n");
    put(3);
    world.agent.wait_outcomes(&["committed", "committed", "rolled_back"]);
    world
        .agent
        .wait("what was served before is served again", |a| (a.read("serving") == "aws-2\nvault-2\n").then_some(()));
    assert_eq!(world.agent.read("out/conf"), "aws-2\nvault-2\n");
    world.put("accept", "vault-4\n");
    put(4);
    world.agent.wait_outcomes(&["committed", "committed", "rolled_back", "committed"]);
    world.serves(&["aws-4", "vault-4"]);
    assert_eq!(world.served(), ["aws-1", "aws-2", "aws-3", "aws-2", "aws-4"]);
}
