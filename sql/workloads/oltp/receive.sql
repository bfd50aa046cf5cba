--: keep or stop
SELECT l.purchase_order_id AS purchase, l.line, l.product_id AS product, l.qty - l.received AS qty
  FROM purchase_order o
  JOIN purchase_order_line l ON l.purchase_order_id = o.id
 WHERE o.status = 'open' AND o.warehouse_id = :warehouse AND l.received = 0
 ORDER BY o.expected_on, o.id, l.line
 LIMIT 1
   FOR UPDATE OF o, l SKIP LOCKED;

UPDATE purchase_order_line SET received = qty WHERE purchase_order_id = :purchase AND line = :line;

UPDATE purchase_order o SET status = 'received'
 WHERE id = :purchase
   AND NOT EXISTS (SELECT FROM purchase_order_line l WHERE l.purchase_order_id = o.id AND l.received < l.qty);

--: keep
INSERT INTO lot (product_id, purchase_order_id, line, received_at, expires_on)
SELECT id, :purchase, :line, now(), current_date + shelf_life_days FROM product WHERE id = :product
RETURNING id AS lot;

--: keep
SELECT location.id AS dock
  FROM location JOIN zone ON zone.id = location.zone_id
 WHERE zone.warehouse_id = :warehouse AND zone.kind = 'receiving' AND NOT location.is_blocked
 ORDER BY random()
 LIMIT 1;

INSERT INTO inventory (location_id, lot_id, on_hand, counted_at) VALUES (:dock, :lot, :qty, now());

INSERT INTO movement (kind, lot_id, to_location_id, qty, employee_id, moved_at)
VALUES ('receipt', :lot, :dock, :qty, :employee, now());
