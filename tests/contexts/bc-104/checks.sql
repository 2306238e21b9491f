-- check: channel_total
-- severity: error
-- repair: UPDATE public.channels SET total = counted FROM broken WHERE id = channel_id
-- A channel knows how many messages it has.
SELECT c.id AS channel_id, count(m.id) AS counted FROM public.channels c LEFT JOIN public.messages m ON m.channel_id = c.id GROUP BY c.id, c.total
HAVING c.total <> count(m.id);
