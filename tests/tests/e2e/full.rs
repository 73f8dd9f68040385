//! What `all` has a shorter form of: `tests/run.sh e2e` runs both.

use crate::{hooks, untouched};

#[test]
fn a_command_that_says_a_word_of_the_engines_is_tried_once_whichever_it_is() {
    untouched::each_word();
}

#[test]
fn each_kind_of_ref_is_built_from_what_it_is_at_and_published_by_a_name_of_its_own() {
    hooks::each_kind_of_ref(true);
}
