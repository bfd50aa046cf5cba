--: keep
INSERT INTO sales_order (customer_id, warehouse_id, placed_at, required_on, status, priority)
VALUES (:customer, :warehouse, now(), current_date + 2 + :priority::int, 'new', :priority)
RETURNING id AS order_id;

INSERT INTO sales_order_line (order_id, line, product_id, qty, unit_price)
SELECT :order_id, row_number() OVER (ORDER BY wanted.id), wanted.id, :qty,
       (SELECT price FROM price_history h WHERE h.product_id = wanted.id ORDER BY valid_from DESC LIMIT 1)
  FROM unnest(:products::int[]) AS wanted (id);

-- Oldest goods first. Locked in the order of their key, as everywhere.
WITH candidate AS (
    SELECT i.location_id, i.lot_id, i.on_hand - i.reserved AS free, l.line, l.qty,
           row_number() OVER (PARTITION BY l.line ORDER BY lot.expires_on NULLS LAST, lot.id, i.location_id) AS nth
      FROM sales_order_line l
      JOIN lot ON lot.product_id = l.product_id
      JOIN inventory i ON i.lot_id = lot.id
      JOIN location ON location.id = i.location_id
      JOIN zone ON zone.id = location.zone_id
     WHERE l.order_id = :order_id AND zone.warehouse_id = :warehouse AND i.on_hand - i.reserved >= l.qty),
locked AS (
    SELECT i.location_id, i.lot_id, c.line, c.qty
      FROM inventory i
      JOIN candidate c ON c.location_id = i.location_id AND c.lot_id = i.lot_id
     WHERE c.nth = 1 AND i.on_hand - i.reserved >= c.qty
     ORDER BY i.location_id, i.lot_id
       FOR UPDATE OF i SKIP LOCKED),
reserved AS (
    UPDATE inventory i SET reserved = i.reserved + l.qty
      FROM locked l
     WHERE i.location_id = l.location_id AND i.lot_id = l.lot_id
    RETURNING l.line, i.location_id, i.lot_id, l.qty),
noted AS (
    INSERT INTO allocation (order_id, line, location_id, lot_id, qty)
    SELECT :order_id, line, location_id, lot_id, qty FROM reserved
    RETURNING line)
UPDATE sales_order SET status = 'allocated'
 WHERE id = :order_id AND EXISTS (SELECT FROM noted);
