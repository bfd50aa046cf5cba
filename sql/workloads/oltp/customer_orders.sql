SELECT o.id, o.placed_at, o.status, w.code, count(l.line) AS lines, sum(l.qty * l.unit_price * (1 - l.discount)) AS value
  FROM sales_order o
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN sales_order_line l ON l.order_id = o.id
 WHERE o.customer_id = :customer
 GROUP BY o.id, w.code
 ORDER BY o.placed_at DESC, o.id DESC
 LIMIT 10
