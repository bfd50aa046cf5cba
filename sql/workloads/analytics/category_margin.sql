SELECT top.name AS top, middle.name AS middle, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue,
       sum(l.qty * (l.unit_price * (1 - l.discount) - h.cost)) AS margin
  FROM sales_order o
  JOIN sales_order_line l ON l.order_id = o.id
  JOIN product p ON p.id = l.product_id
  JOIN price_history h ON h.product_id = p.id AND h.valid_from = (SELECT first_day FROM dataset)
  JOIN category leaf ON leaf.id = p.category_id
  JOIN category middle ON middle.id = leaf.parent_id
  JOIN category top ON top.id = middle.parent_id
 WHERE o.status <> 'cancelled' AND o.placed_at >= (:last_day::date - 364) AND o.placed_at < (:last_day::date + 1)
 GROUP BY top.name, middle.name
 ORDER BY top.name, middle.name
