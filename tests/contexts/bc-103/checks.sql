-- check: not_part_of_itself
-- severity: error
-- No area is part of itself.
SELECT id FROM music.area WHERE part_of = id;
