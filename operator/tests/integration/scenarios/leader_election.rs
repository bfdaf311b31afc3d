//! Leader election: a leader stops as soon as it cannot confirm its lease.

use std::time::Duration;

use operator::leader::{Leadership, join_election};
use tokio::time::timeout;

use super::api_server::{ApiServer, Fault};

const LEASE: &str = "streamstage-operator";
/// Longer than the lease duration.
const DEADLINE: Duration = Duration::from_secs(30);

async fn become_leader(server: &ApiServer) -> Leadership {
    let joined = join_election(server.client(), "orders", LEASE, "one").await;
    let mut leadership = joined.expect("join the election");
    let acquired = timeout(DEADLINE, leadership.wait_acquired()).await;
    acquired
        .expect("the lease is acquired in time")
        .expect("the lease manager is running");
    leadership
}

async fn assert_lost(server: &ApiServer, leadership: Leadership) {
    let lost = timeout(DEADLINE, leadership.wait_lost()).await;
    lost.expect("the leader detects the loss in time");
    server.heal();
}

fn fault(verb: &'static str, response: Option<(u16, &'static str)>) -> Fault {
    Fault {
        verb,
        resource: "leases",
        times: usize::MAX,
        response,
    }
}

#[tokio::test]
async fn a_leader_loses_the_lease_when_the_api_server_does_not_respond() {
    let server = ApiServer::start();
    let leadership = become_leader(&server).await;
    server.fail(fault("get", None));
    assert_lost(&server, leadership).await;
}

#[tokio::test]
async fn a_leader_loses_the_lease_when_its_renewals_fail() {
    let server = ApiServer::start();
    let leadership = become_leader(&server).await;
    server.fail(fault("patch", Some((500, "no leader of etcd"))));
    assert_lost(&server, leadership).await;
}

#[tokio::test]
async fn a_leader_loses_a_deleted_lease_and_recreates_it_after_a_restart() {
    let server = ApiServer::start();
    let leadership = become_leader(&server).await;
    server.delete("leases", LEASE);
    assert_lost(&server, leadership).await;
    assert!(server.get("leases", LEASE).is_none());
    become_leader(&server).await;
}

#[tokio::test]
async fn a_leader_remains_leader_while_it_renews_the_lease_and_releases_it_at_the_end() {
    let server = ApiServer::start();
    let leadership = become_leader(&server).await;
    let renew_time =
        |server: &ApiServer| server.get("leases", LEASE).unwrap_or_default()["spec"]["renewTime"].clone();
    let first = renew_time(&server);
    let renewals = async {
        let mut last = first;
        for _ in 0..3 {
            let previous = last.clone();
            server.wait_until(|server| renew_time(server) != previous).await;
            last = renew_time(&server);
        }
    };
    // Three renewals take longer than the lease duration.
    tokio::select! {
        reason = leadership.wait_lost() => panic!("lost the lease: {reason}"),
        () = renewals => {}
    }
    leadership.release().await.expect("release the lease");
    let lease = server.get("leases", LEASE).expect("the lease exists");
    assert!(lease["spec"]["holderIdentity"].is_null(), "{lease}");
}
