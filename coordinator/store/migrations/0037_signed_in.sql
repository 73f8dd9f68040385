-- When somebody has signed in last, for lists. Older coordinators leave it as it is.

ALTER TABLE person_subjects ADD COLUMN signed_in_at timestamptz;

-- locks: a row for each person who signs in, and few sign in at this moment
UPDATE person_subjects p SET signed_in_at = last.at
FROM (SELECT s.issuer, s.subject, max(t.created_at) AS at FROM sign_ins s JOIN tokens t ON t.id = s.token_id
      WHERE t.parent_id IS NULL GROUP BY s.issuer, s.subject) last
WHERE last.issuer = p.issuer AND last.subject = p.subject;
