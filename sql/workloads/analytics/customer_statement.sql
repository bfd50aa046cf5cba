SELECT o.id, o.placed_at, o.status, w.name AS warehouse, s.tracking, carrier.name AS carrier,
       count(*) AS lines, sum(l.qty * l.unit_price * (1 - l.discount)) AS value, sum(l.qty * p.weight_g) AS weight_g
  FROM sales_order o
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
  LEFT JOIN shipment s ON s.order_id = o.id
  LEFT JOIN carrier ON carrier.id = s.carrier_id
 WHERE o.customer_id = :customer AND o.placed_at >= :day::date - 90 AND o.placed_at < :day::date
 GROUP BY o.id, w.name, s.tracking, carrier.name
 ORDER BY o.id
