-- What a worker found when it looked at itself after a failure, in words; empty: nothing is wrong with it; null: it did not
-- look. Only a finding is held against it.
ALTER TABLE attempts ADD COLUMN self_check text;
