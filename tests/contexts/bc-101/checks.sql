-- check: rented_by_a_customer_of_its_store
-- severity: warning
-- A rental's copy and customer belong to stores.
SELECT r.id FROM shop.rentals r JOIN shop.copies k ON k.id = r.copy_id WHERE k.store_id NOT IN (SELECT id FROM shop.stores);
