//! Bad input and bad circumstances: a clear error, the right exit code, and nothing that was isolated is released.
//!
//! Each test isolates a pod first and proves last that it is still cut.

mod circumstances;
mod records;
mod socket;

use isolate_tests::{
    channel::{Channel, Path},
    pod::Spec,
};

use crate::{scene::Scene, suite};

pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
    [uids(), socket::trials(), records::trials(), circumstances::trials()].into_iter().flatten().collect()
}

fn uids() -> Vec<libtest_mimic::Trial> {
    vec![suite::trial("bad_input::uids_that_mean_no_pod", &[], uids_that_mean_no_pod)]
}

fn uids_that_mean_no_pod() {
    for with_daemon in [true, false] {
        let scene = Scene::new();
        let Scene { agent, web, neighbour, node } = &scene;
        let _daemon = with_daemon.then(|| agent.daemon());
        let path = isolated(&scene);
        for malformed in ["web-0", "0f0e", "../../etc/passwd", "", "0f0e0d0c-1234-4000-8000-0123456789abcdef"] {
            for verb in ["add", "remove", "status"] {
                let told = agent.run(&[verb, malformed]).expect(2);
                assert!(told.text().contains(malformed), "{verb} {malformed:?}: {}", told.text());
            }
        }
        let unknown = "ffffffff-0000-4000-8000-000000000000";
        let told = agent.run(&["add", unknown]).expect(3);
        assert!(told.text().contains(unknown), "{}", told.text());

        let twins = ["abcdef01-0000-4000-8000-000000000001", "abcdef01-0000-4000-8000-000000000002"]
            .map(|uid| node.pod(&Spec { uid: Some(uid.to_owned()), ..Spec::default() }));
        let told = agent.run(&["add", "abcdef01"]).expect(2);
        assert!(twins.iter().all(|pod| told.text().contains(pod.uid())), "the candidates are missing\n{}", told.text());
        let flows = Path::shown(Channel::ORDINARY, twins[0].end(), neighbour.end());
        agent.add(&[twins[0].uid()]);
        flows.assert_cut();

        // One bad name in a list does not keep the others from being cut.
        agent.run(&["add", unknown, twins[1].uid()]).expect(3);
        assert!(agent.isolated().contains(&twins[1].uid().to_owned()));
        assert!(agent.isolated().contains(&web.uid().to_owned()));
        path.assert_cut();
    }
}

/// Isolates the pod of the scene; the path that was shown to work before.
pub(crate) fn isolated(scene: &Scene) -> Path<'_> {
    let path = Path::shown(Channel::ORDINARY, scene.web.end(), scene.neighbour.end());
    scene.agent.add(&[scene.web.uid(), "--reason", "must stay"]);
    path.assert_cut();
    path
}
