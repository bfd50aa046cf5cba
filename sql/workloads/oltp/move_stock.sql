--: keep or stop
SELECT lot_id AS lot, (on_hand - reserved + 1) / 2 AS qty
  FROM inventory
 WHERE location_id = :location AND on_hand > reserved AND location_id <> :destination
 ORDER BY counted_at
 LIMIT 1
   FOR UPDATE SKIP LOCKED;

UPDATE inventory SET on_hand = on_hand - :qty, counted_at = now() WHERE location_id = :location AND lot_id = :lot;

INSERT INTO inventory AS i (location_id, lot_id, on_hand, counted_at) VALUES (:destination, :lot, :qty, now())
    ON CONFLICT (location_id, lot_id) DO UPDATE SET on_hand = i.on_hand + excluded.on_hand, counted_at = now();

INSERT INTO movement (kind, lot_id, from_location_id, to_location_id, qty, employee_id, moved_at)
VALUES ('move', :lot, :location, :destination, :qty, :employee, now());
