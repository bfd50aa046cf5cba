SELECT p.id, p.sku, p.name, c.path AS category, count(DISTINCT o.id) AS orders, sum(other.qty) AS qty
  FROM sales_order_line mine
  JOIN sales_order o ON o.id = mine.order_id
  JOIN sales_order_line other ON other.order_id = o.id AND other.product_id <> mine.product_id
  JOIN product p ON p.id = other.product_id
  JOIN category c ON c.id = p.category_id
 WHERE mine.product_id = :product AND o.status <> 'cancelled'
 GROUP BY p.id, c.path
 ORDER BY orders DESC, p.id
 LIMIT 20
