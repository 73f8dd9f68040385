-- What is looked at in results of builds that don't say it.

-- elf or off; empty: as the farm has it, elf.
-- fits: older coordinators write nothing there, and look at nothing unless a build says it
ALTER TABLE projects ADD COLUMN default_verify text NOT NULL DEFAULT '';
