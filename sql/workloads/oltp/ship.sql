--: keep or stop
SELECT id AS order_id
  FROM sales_order
 WHERE status = 'packed' AND warehouse_id = :warehouse
 ORDER BY placed_at
 LIMIT 1
   FOR UPDATE SKIP LOCKED;

--: keep
INSERT INTO shipment (order_id, carrier_id, tracking, weight_g, shipped_at)
SELECT :order_id, :carrier, md5(:order_id::bigint::text), sum(m.qty * p.weight_g::bigint), now()
  FROM movement m
  JOIN lot ON lot.id = m.lot_id
  JOIN product p ON p.id = lot.product_id
 WHERE m.order_id = :order_id AND m.kind = 'pick'
RETURNING id AS shipment_id;

INSERT INTO shipment_line (shipment_id, order_id, line, lot_id, qty)
SELECT :shipment_id, order_id, line, lot_id, sum(qty)
  FROM movement
 WHERE order_id = :order_id AND kind = 'pick'
 GROUP BY order_id, line, lot_id;

UPDATE sales_order SET status = 'shipped' WHERE id = :order_id;
