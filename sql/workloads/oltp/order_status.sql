SELECT o.id, o.status, o.placed_at, c.name AS customer, l.line, p.sku, p.name, l.qty, l.unit_price,
       s.tracking, s.shipped_at, s.delivered_at, carrier.name AS carrier
  FROM sales_order o
  JOIN customer c ON c.id = o.customer_id
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
  LEFT JOIN shipment s ON s.order_id = o.id
  LEFT JOIN carrier ON carrier.id = s.carrier_id
 WHERE o.id = :order
 ORDER BY l.line
