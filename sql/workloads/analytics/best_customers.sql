SELECT c.id, c.name, c.country, c.tier, count(DISTINCT o.id) AS orders, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue,
       count(DISTINCT w.id) AS warehouses, count(DISTINCT p.category_id) AS categories
  FROM customer c
  JOIN sales_order o ON o.customer_id = c.id
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
 WHERE c.kind = :kind AND o.status <> 'cancelled'
 GROUP BY c.id
 ORDER BY revenue DESC, c.id
 LIMIT 100
