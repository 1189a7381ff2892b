//! KV, both versions.

use serde_json::{Value, json};

use crate::vault::server::servers;
use crate::{ask, get};

#[tokio::test]
async fn kv_2_counts_versions_and_reads_older_ones() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        assert_eq!(server.put(&mount, "a/b", json!({"password": "one"})).await, 1);
        assert_eq!(server.put(&mount, "a/b", json!({"password": "two"})).await, 2);
        let now = get(&*server, root, &format!("{mount}/data/a/b")).await.is(200);
        assert_eq!(now.text("/data/data/password"), "two", "{}", server.name());
        assert_eq!(now.number("/data/metadata/version"), 2);
        assert_eq!(now.at("/data/metadata/deletion_time"), "");
        assert_eq!(now.at("/data/metadata/destroyed"), false);
        assert_eq!(now.at("/data/metadata/custom_metadata"), Value::Null);
        assert!(now.text("/data/metadata/created_time").parse::<jiff::Timestamp>().is_ok());
        assert_eq!((now.at("/lease_id"), now.at("/renewable")), (json!(""), json!(false)));
        assert_eq!(now.number("/lease_duration"), 0);
        let before = get(&*server, root, &format!("{mount}/data/a/b?version=1")).await.is(200);
        assert_eq!(before.text("/data/data/password"), "one");
        assert_eq!(
            get(&*server, root, &format!("{mount}/data/a/b?version=0")).await.number("/data/metadata/version"),
            2
        );
    }
}

#[tokio::test]
async fn kv_2_tells_deleted_and_destroyed_from_absent() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        let at = format!("{mount}/data/app");
        let absent = get(&*server, root, &at).await.is(404);
        assert_eq!((absent.at("/data"), absent.at("/errors")), (Value::Null, json!([])), "{}", server.name());
        server.put(&mount, "app", json!({"k": "v"})).await;
        assert_eq!(get(&*server, root, &format!("{at}?version=7")).await.is(404).at("/data"), Value::Null);

        server.must("DELETE", &at, Value::Null).await;
        let deleted = get(&*server, root, &at).await.is(404);
        assert_eq!(deleted.at("/data/data"), Value::Null);
        assert_eq!(deleted.number("/data/metadata/version"), 1, "{}", server.name());
        assert_ne!(deleted.text("/data/metadata/deletion_time"), "");
        assert_eq!(deleted.at("/data/metadata/destroyed"), false);

        server.must("POST", &format!("{mount}/undelete/app"), json!({"versions": [1]})).await;
        assert_eq!(get(&*server, root, &at).await.is(200).text("/data/data/k"), "v");

        server.must("PUT", &format!("{mount}/destroy/app"), json!({"versions": [1]})).await;
        let destroyed = get(&*server, root, &at).await.is(404);
        assert_eq!(destroyed.at("/data/data"), Value::Null);
        assert_eq!(destroyed.at("/data/metadata/destroyed"), true);
        assert_eq!(destroyed.number("/data/metadata/version"), 1);
    }
}

#[tokio::test]
async fn kv_2_serves_a_version_whose_deletion_is_still_to_come() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        let later = json!({"delete_version_after": "1h"});
        server.must("POST", &format!("{mount}/metadata/app"), later).await;
        server.put(&mount, "app", json!({"k": "v"})).await;
        let read = get(&*server, root, &format!("{mount}/data/app")).await.is(200);
        let deletion: jiff::Timestamp = read.text("/data/metadata/deletion_time").parse().unwrap();
        let created: jiff::Timestamp = read.text("/data/metadata/created_time").parse().unwrap();
        assert_eq!(deletion.duration_since(created).as_secs(), 3600, "{}", server.name());
    }
}

#[tokio::test]
async fn kv_2_metadata_alone_shows_a_change() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        server.put(&mount, "app", json!({"k": "1"})).await;
        server.put(&mount, "app", json!({"k": "2"})).await;
        let custom = json!({"custom_metadata": {"owner": "payments"}});
        server.must("POST", &format!("{mount}/metadata/app"), custom).await;
        let metadata = get(&*server, root, &format!("{mount}/metadata/app")).await.is(200);
        assert_eq!(metadata.number("/data/current_version"), 2, "{}", server.name());
        assert_eq!(metadata.text("/data/custom_metadata/owner"), "payments");
        assert_eq!(metadata.at("/data/versions/2/destroyed"), false);
        assert_eq!(metadata.at("/data/versions/2/deletion_time"), "");
        let read = get(&*server, root, &format!("{mount}/data/app")).await;
        assert_eq!(read.text("/data/metadata/custom_metadata/owner"), "payments");
        assert_eq!(metadata.text("/data/versions/2/created_time"), read.text("/data/metadata/created_time"));
        assert_eq!(get(&*server, root, &format!("{mount}/metadata/none")).await.is(404).at("/data"), Value::Null);
    }
}

#[tokio::test]
async fn kv_2_forgets_versions_beyond_its_limit_and_reads_with_a_patch() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        server.must("POST", &format!("{mount}/config"), json!({"max_versions": 2})).await;
        for k in ["1", "2"] {
            server.put(&mount, "app", json!({"k": k, "same": "s"})).await;
        }
        assert_eq!(server.patch(&mount, "app", json!({"k": "3"})).await, 3);
        let read = get(&*server, root, &format!("{mount}/data/app")).await.is(200);
        assert_eq!(read.at("/data/data"), json!({"k": "3", "same": "s"}), "{}", server.name());
        assert_eq!(get(&*server, root, &format!("{mount}/data/app?version=1")).await.is(404).at("/data"), Value::Null);
        get(&*server, root, &format!("{mount}/data/app?version=2")).await.is(200);
    }
}

#[tokio::test]
async fn kv_2_says_so_where_the_path_lacks_data() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        server.put(&mount, "app", json!({"k": "v"})).await;
        let wrong = get(&*server, root, &format!("{mount}/app")).await.is(404);
        assert!(wrong.text("/warnings/0").starts_with("Invalid path for a versioned K/V secrets engine"));
    }
}

#[tokio::test]
async fn kv_1_reports_a_hint_and_no_lease() {
    for server in servers() {
        let (mount, root) = (server.kv(1).await, server.root_token());
        server.must("POST", &format!("{mount}/app"), json!({"k": "v"})).await;
        let read = get(&*server, root, &format!("{mount}/app")).await.is(200);
        assert_eq!(read.at("/data"), json!({"k": "v"}), "{}", server.name());
        assert_eq!(read.number("/lease_duration"), 768 * 3600);
        assert_eq!((read.at("/lease_id"), read.at("/renewable")), (json!(""), json!(false)));
        server.must("POST", &format!("{mount}/short"), json!({"k": "v", "ttl": "30m"})).await;
        let short = get(&*server, root, &format!("{mount}/short")).await.is(200);
        assert_eq!(short.number("/lease_duration"), 1800, "{}", server.name());
        assert_eq!(get(&*server, root, &format!("{mount}/none")).await.is(404).at("/errors"), json!([]));
    }
}

#[tokio::test]
async fn the_kind_of_a_mount_can_be_asked_by_whoever_may_read_below_it() {
    for server in servers() {
        let (one, two) = (server.kv(1).await, server.kv(2).await);
        let policy = crate::vault::server::unique("policy");
        server.policy(&policy, &format!("path \"{two}/data/app\" {{ capabilities = [\"read\"] }}")).await;
        let token = server.token(json!({"policies": [policy]})).await;
        let found = get(&*server, &token, &format!("sys/internal/ui/mounts/{two}/data/app")).await.is(200);
        assert_eq!((found.text("/data/type"), found.text("/data/path")), ("kv".into(), format!("{two}/")));
        assert_eq!(found.text("/data/options/version"), "2", "{}", server.name());
        let refused = get(&*server, &token, &format!("sys/internal/ui/mounts/{one}/app")).await.is(403);
        assert!(refused.error().starts_with("preflight capability check returned 403"), "{}", refused.error());
        get(&*server, &token, "sys/internal/ui/mounts/nothing/there").await.is(403);
        let root = server.root_token();
        let first = get(&*server, root, &format!("sys/internal/ui/mounts/{one}/app")).await.is(200);
        assert_eq!(first.text("/data/options/version"), "1");
        let all = get(&*server, root, "sys/mounts").await.is(200);
        assert_eq!(all.value()["data"][format!("{two}/")]["type"], "kv");
    }
}

#[tokio::test]
async fn a_listing_names_what_is_right_below() {
    for server in servers() {
        let (mount, root) = (server.kv(2).await, server.root_token());
        server.put(&mount, "a/b", json!({"k": "v"})).await;
        server.put(&mount, "c", json!({"k": "v"})).await;
        let by_method = ask(&*server, root, "LIST", &format!("{mount}/metadata"), Value::Null).await.is(200);
        let by_query = get(&*server, root, &format!("{mount}/metadata?list=true")).await.is(200);
        assert_eq!(by_method.at("/data/keys"), json!(["a/", "c"]), "{}", server.name());
        assert_eq!(by_query.at("/data/keys"), json!(["a/", "c"]));
    }
}
