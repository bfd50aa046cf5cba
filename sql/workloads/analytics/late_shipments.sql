SELECT o.id, c.name AS customer, c.tier, w.code AS warehouse, carrier.name AS carrier, o.required_on, s.delivered_at,
       sum(sl.qty) AS qty
  FROM sales_order o
  JOIN customer c ON c.id = o.customer_id
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN shipment s ON s.order_id = o.id
  JOIN carrier ON carrier.id = s.carrier_id
  JOIN shipment_line sl ON sl.shipment_id = s.id
 WHERE o.placed_at >= :day::date AND o.placed_at < :day::date + 7 AND s.delivered_at > o.required_on + 1
 GROUP BY o.id, c.name, c.tier, w.code, carrier.name, s.delivered_at
 ORDER BY o.id
