//! A soak of two minutes. `make soak` runs longer ones, and other seeds.

use lab::scenario::Scenario;
use lab::soak::Soak;

pub fn all() -> Vec<Scenario> {
    let soak = Soak {
        seconds: 120,
        seed: 1,
    };
    vec![soak.scenario("a_soak_of_two_minutes").apart()]
}
