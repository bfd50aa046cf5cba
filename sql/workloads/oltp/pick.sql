--: keep or stop
SELECT id AS order_id
  FROM sales_order
 WHERE status = 'allocated' AND warehouse_id = :warehouse
 ORDER BY priority, placed_at
 LIMIT 1
   FOR UPDATE SKIP LOCKED;

WITH taken AS (
    DELETE FROM allocation WHERE order_id = :order_id
    RETURNING order_id, line, location_id, lot_id, qty),
locked AS (
    SELECT i.location_id, i.lot_id
      FROM inventory i
      JOIN taken t ON t.location_id = i.location_id AND t.lot_id = i.lot_id
     ORDER BY i.location_id, i.lot_id
       FOR UPDATE OF i),
counted AS (
    UPDATE inventory i SET on_hand = on_hand - t.qty, reserved = reserved - t.qty, counted_at = now()
      FROM (SELECT t.location_id, t.lot_id, sum(qty) AS qty
              FROM taken t JOIN (SELECT DISTINCT location_id, lot_id FROM locked) l
                ON l.location_id = t.location_id AND l.lot_id = t.lot_id
             GROUP BY 1, 2) t
     WHERE i.location_id = t.location_id AND i.lot_id = t.lot_id)
INSERT INTO movement (kind, lot_id, from_location_id, qty, order_id, line, employee_id, moved_at)
SELECT 'pick', lot_id, location_id, qty, order_id, line, :employee, now() FROM taken;

UPDATE sales_order SET status = 'picked' WHERE id = :order_id;
