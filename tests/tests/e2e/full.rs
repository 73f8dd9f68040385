//! What `all` has a shorter form of: `tests/run.sh e2e` runs both.

use crate::untouched;

#[test]
fn a_command_that_says_a_word_of_the_engines_is_tried_once_whichever_it_is() {
    untouched::each_word();
}
