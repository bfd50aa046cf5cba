SELECT date_trunc('month', o.placed_at) AS month, w.code AS warehouse, middle.name AS category, sum(l.qty) AS qty,
       sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue
  FROM sales_order o
  JOIN warehouse w ON w.id = o.warehouse_id
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
  JOIN category leaf ON leaf.id = p.category_id
  JOIN category middle ON middle.id = leaf.parent_id
  JOIN category top ON top.id = middle.parent_id
 WHERE top.name = :top AND o.status <> 'cancelled'
 GROUP BY month, w.code, middle.name
 ORDER BY month, w.code, middle.name
